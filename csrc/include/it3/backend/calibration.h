#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/engine_setup.h>
#include <it3/backend/export.h>
#include <it3/backend/prediction_range.h>
#include <it3/options.h>

namespace it3 {

/// What batches that need no adaptation tell: how large uncertainty() is where the network is sure, and how extreme its
/// predictions are.
class IT3_API Calibration {
 public:
  /// Takes one more batch in, by predictions without adapting; they normalize as the options say.
  void add(const EngineCall& call, const Options& options);

  /// A quantile of uncertainty() over the samples of all batches, interpolated linearly. Raises c10::ValueError for a
  /// quantile outside [0, 1]; if there are no samples; and if some distances are not finite, naming the samples.
  double threshold(double quantile) const;

  const PredictionRange& range() const { return range_; }

 private:
  std::vector<at::Tensor> distances_;
  PredictionRange range_;
};

}  // namespace it3
