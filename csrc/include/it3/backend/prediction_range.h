#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// How extreme predictions were over batches that need no adaptation. An adaptation whose predictions go beyond them
/// has probably collapsed: toward one class for all samples, or toward ever larger numbers.
struct IT3_API PredictionRange {
  /// What predictions are. Of classes the entropy tells how extreme they are, of all else the norm.
  enum class Kind { logits, probabilities, numbers };

  Kind kind = Kind::numbers;
  /// For classes the least mean entropy of a batch, over samples and positions, in nats; else the greatest mean over a
  /// batch of the Euclidean norm of a sample's prediction.
  double most_extreme = 0;
  /// Of the smallest batch. The means of smaller ones vary more, so that they are not judged.
  std::int64_t samples = 0;

  bool operator==(const PredictionRange&) const = default;

  static std::int64_t samples_of(const at::Tensor& prediction, const Layout& layout);

  /// The mean entropy, or the mean norm, of a batch's predictions.
  double measure(const at::Tensor& prediction, const Layout& layout) const;

  /// Whether such a mean is far beyond all of them: an entropy below half of the least, or a norm above twice the
  /// greatest. By chance alone, one more batch is sometimes a little beyond.
  bool is_exceeded_by(double value) const;

  /// Takes one more batch in.
  void widen(const at::Tensor& prediction, const Layout& layout);
};

/// For files: ("logits" or so, most_extreme, samples), or None. The other way raises c10::Error for anything else.
IT3_API c10::IValue to_ivalue(const std::optional<PredictionRange>& range);
IT3_API std::optional<PredictionRange> prediction_range_from(const c10::IValue& value);

}  // namespace it3
