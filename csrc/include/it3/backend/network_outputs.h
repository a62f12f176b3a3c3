#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/network.h>

namespace it3 {

/// What a network gives that is to be compared with another's.
struct NetworkOutputs {
  std::vector<at::Tensor> predictions;
  std::vector<at::Tensor> gradients;
  std::vector<at::Tensor> moved;  // the first prediction with other weights, and the norms that these have after it
};

/// Both predictions, the first one without gradients, and the gradients of all by all parameters, from the network as
/// it is; and the first prediction with weights that have moved, and the norms that this pass leaves them with.
IT3_API NetworkOutputs
outputs_of(Network& network, const Inputs& inputs, const std::vector<NamedParameter>& parameters);

/// Moves weights as steps do, but far enough to show what depends on their values: a limit that they already keep,
/// which forward() holds them to by writing, or a value that a trace has fixed; and so that none of them stays zero.
///
/// @param by  how far, in parts of each
IT3_API void move(const std::vector<at::Tensor>& weights, double by = 0.25);

/// How outputs differ from those that are right, by more than rounding; empty if they do not.
///
/// @param nudged  those of the right network on nudged() inputs, if it may amplify rounding
///
/// Each tensor may then differ by ten times as much as the nudge has changed it, at most by a hundredth of its norm. If
/// the nudge has changed one by more than a two-hundredth, it has met a jump, as of a mask, and allows nothing more.
IT3_API std::string difference(
    const NetworkOutputs& actual, const NetworkOutputs& expected, const NetworkOutputs* nudged = nullptr);

/// The same inputs, each number off by as much as rounding makes.
IT3_API Inputs nudged(const Inputs& inputs);

/// The same inputs in memory of their own, as forward() may write to them.
IT3_API Inputs copies_of(const Inputs& inputs);

}  // namespace it3
