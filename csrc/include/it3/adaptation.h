#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// What adaptation came to. Every tensor is detached.
struct IT3_API Adaptation {
  /// The answer: the adapted network's y0, y1 or their mean, as Options::prediction says.
  at::Tensor prediction;
  /// The adapted network's first prediction, y0.
  at::Tensor first;
  /// distance(y1, y0) before each step, of the samples that adapt: (steps,), on the prediction's device. With
  /// Options::per_sample (steps, B): a sample that took fewer steps repeats its last loss, and has 0 if it took none.
  at::Tensor losses;
  /// The adapted network's second prediction, y1 = f(x | y0); only with details, or if it is part of the answer.
  at::Tensor second;
  /// Which samples adapted, (B,) of booleans; only with Options::threshold.
  at::Tensor adapted_samples;
  /// Whether the network had collapsed and went back to its start before this batch, see Options::recovery_factor.
  bool recovered = false;
  /// The adapted parameters, by name; only with details. None with Options::per_sample, where each sample had its own.
  std::vector<std::pair<std::string, at::Tensor>> weights;

  /// Where the predictions have their samples and their channels.
  Layout prediction_layout;
  /// Whether softmax(y0) was fed back in y0's place, see Feedback.
  bool feeds_probabilities = false;

  std::int64_t steps() const { return losses.size(0); }

  /// The loss before the last step, a scalar, or (B,) with Options::per_sample; 0 where there was no step.
  at::Tensor loss() const;

  /// ‖y1 − y0‖ of each sample, (B,), or ‖softmax(y1) − softmax(y0)‖ where probabilities are fed back: larger where the
  /// adapted network is less sure. See sample_distances(). Raises c10::ValueError without `second`.
  at::Tensor uncertainty() const;
};

}  // namespace it3
