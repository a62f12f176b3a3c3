#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/export.h>
#include <it3/graphs.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/online.h>
#include <it3/options.h>

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
  /// The adapted network's second prediction, y1 = f(x | y0); only in full, or if it is part of the answer.
  at::Tensor second;
  /// Which samples adapted, (B,) of booleans; only with Options::threshold.
  at::Tensor adapted_samples;
  /// Whether the network had collapsed and went back to its start before this batch, see Options::recovery_factor.
  bool recovered = false;
  /// The adapted parameters, by name; only in full. None with Options::per_sample, where each sample had its own.
  std::vector<std::pair<std::string, at::Tensor>> weights;

  std::int64_t steps() const { return losses.size(0); }

  /// The loss before the last step, a scalar, or (B,) with Options::per_sample; 0 where there was no step.
  at::Tensor loss() const;
};

/// The inner loop of IT3: up to `num_steps` optimiser steps on distance(y1, y0), then the prediction.
///
/// Works whatever the caller's grad, inference and autocast modes. Whatever is thrown by a part, the network is as it
/// was.
///
/// @param online  where adapted weights and optimiser state are kept; null for a call that leaves no trace
/// @param in_full  whether to give Adaptation::second and weights too
/// @param graphs  where recordings of calls by this network and method are kept; null for none
///
/// Raises c10::ValueError if no parameter can adapt, or if losses or the prediction are not finite.
IT3_API Adaptation adapt(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online* online = nullptr,
    bool in_full = false,
    Graphs* graphs = nullptr);

}  // namespace it3
