#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// How extreme predictions were over batches that need no adaptation. If an adaptation makes predictions far more
/// extreme, the network has probably collapsed: it predicts one class for all samples, or ever larger numbers.
///
/// @code{.cpp}
/// it3::PredictionRange range;  // of numbers
/// range.widen(torch::ones({8, 3}), {});
/// range.widen(2 * torch::ones({8, 3}), {});
/// double collapsed = range.measure(10 * torch::ones({8, 3}), {});  // the mean norm, 10 sqrt(3)
/// assert(range.is_exceeded_by(collapsed) && !range.is_exceeded_by(range.most_extreme));
/// @endcode
struct IT3_API PredictionRange {
  /// What predictions are. Entropy measures how extreme logits and probabilities are, the norm how extreme numbers are.
  enum class Kind { logits, probabilities, numbers };

  /// Whether they are classes or numbers.
  Kind kind = Kind::numbers;
  /// For logits and probabilities, the lowest mean entropy of a batch, over samples and positions, in nats. For
  /// numbers, the highest mean of a batch of the Euclidean norm of a sample's prediction, in the units of the
  /// prediction.
  double most_extreme = 0;
  /// The number of samples of the smallest batch. The means of smaller batches vary more, so those are not judged.
  std::int64_t samples = 0;

  /// Whether all parts are equal.
  bool operator==(const PredictionRange&) const = default;

  /// The number of samples of a prediction.
  static std::int64_t samples_of(const at::Tensor& prediction, const Layout& layout);

  /// The mean entropy, or the mean norm, of the predictions of a batch.
  double measure(const at::Tensor& prediction, const Layout& layout) const;

  /// Whether such a mean is far beyond the range: an entropy below half of the lowest, or a norm above twice the
  /// highest. A mean that is only a little beyond may be chance.
  bool is_exceeded_by(double value) const;

  /// Widens the range by the predictions of one more batch.
  void widen(const at::Tensor& prediction, const Layout& layout);
};

/// A range as a value for files: the tuple (kind, most_extreme, samples), such as ("logits", 0.8, 32); None for no
/// range.
IT3_API c10::IValue to_ivalue(const std::optional<PredictionRange>& range);
/// The range of such a value.
///
/// @throws c10::Error  for any other value
IT3_API std::optional<PredictionRange> prediction_range_from(const c10::IValue& value);

}  // namespace it3
