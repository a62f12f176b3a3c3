#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// The result of one call of adapt(). Every tensor is detached from autograd's graph. Predictions have the shape and
/// dtype of the network's own; losses are on their device. B is the number of samples.
///
/// @code{.cpp}
/// it3::Adaptation adapted = engine.adapt(x, true);  // with details
/// std::cout << "loss " << adapted.loss().item<double>() << " before step " << adapted.steps() << '\n';
/// at::Tensor unsure = adapted.uncertainty();                            // (B,)
/// at::Tensor change = (adapted.second - adapted.first).abs().amax(1);  // |y1 - y0| of the adapted network
/// for (const auto& [name, weight] : adapted.weights) std::cout << name << ' ' << weight.sizes() << '\n';
/// @endcode
struct IT3_API Adaptation {
  /// The answer: the adapted network's y0, its y1, or their mean, as Options::prediction says.
  at::Tensor prediction;
  /// The adapted network's first prediction, y0 = f(x).
  at::Tensor first;
  /// distance(y1, y0) before each step, (steps,), over the samples that adapt. With Options::per_sample it is
  /// (steps, B): a sample that took fewer steps than the others repeats its last loss, or has 0 if it took none.
  at::Tensor losses;
  /// The adapted network's second prediction, y1 = f(x | y0). Undefined, unless details were asked for or the answer
  /// needs it.
  at::Tensor second;
  /// Which samples adapted, (B,) of booleans. Undefined without Options::threshold.
  at::Tensor adapted_samples;
  /// Whether the network had collapsed, so that its weights went back to their start before this batch adapted; see
  /// Options::recovery_factor.
  bool recovered = false;
  /// The adapted parameters by name. Empty, unless details were asked for; always empty with Options::per_sample, where
  /// each sample has weights of its own.
  std::vector<std::pair<std::string, at::Tensor>> weights;

  /// Which dimensions of the predictions are samples and channels.
  Layout prediction_layout;
  /// Whether softmax(y0) was fed back instead of y0; see Feedback.
  bool feeds_probabilities = false;

  /// The number of optimizer steps that were taken. With Options::per_sample, the most that any sample took.
  std::int64_t steps() const { return losses.size(0); }

  /// The loss before the last step: a scalar tensor, or (B,) with Options::per_sample. 0 where no step was taken.
  at::Tensor loss() const;

  /// ‖y1 − y0‖ of each sample, (B,), or ‖softmax(y1) − softmax(y0)‖ where probabilities are fed back: larger where the
  /// adapted network is less sure. In the units of the prediction; see sample_distances().
  ///
  /// @throws c10::ValueError  if `second` is undefined: call adapt() with details
  at::Tensor uncertainty() const;
};

}  // namespace it3
