#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/engine_setup.h>
#include <it3/backend/export.h>
#include <it3/backend/prediction_range.h>
#include <it3/options.h>

namespace it3 {

/// Statistics of batches that need no adaptation: how large uncertainty() is where the network is sure, and how extreme
/// its predictions are.
///
/// @code{.cpp}
/// it3::Calibration calibration;
/// engine.add_to(calibration, x);
/// engine.add_to(calibration, torch::randn({8, 13}));
/// double median = calibration.threshold(0.5), highest = calibration.threshold(1);
/// assert(median <= highest);
/// engine.calibrate_by(calibration, 0.9);
/// @endcode
class IT3_API Calibration {
 public:
  /// Adds a batch: predicts it without adapting, with the normalization of the options.
  void add(const EngineCall& call, const Options& options);

  /// A quantile of uncertainty() over the samples of all batches, interpolated linearly between the nearest two.
  ///
  /// @param quantile  from 0 to 1
  /// @throws c10::ValueError  for another quantile; if there are no samples; and if an uncertainty is not finite,
  ///                          naming the samples
  double threshold(double quantile) const;

  /// How extreme the predictions of the batches were.
  const PredictionRange& range() const { return range_; }

 private:
  std::vector<at::Tensor> distances_;
  PredictionRange range_;
};

}  // namespace it3
