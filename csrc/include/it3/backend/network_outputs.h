#pragma once

#include <functional>
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
///
/// @param varied_by  how far the parameters are moved before, see vary(); not for the prediction without gradients
IT3_API NetworkOutputs
outputs_of(Network& network, const Inputs& inputs, const std::vector<NamedParameter>& parameters, double varied_by = 0);

/// Moves weights as steps do, but far enough to show what depends on their values: a limit that they already keep,
/// which forward() holds them to by writing, or a value that a trace has fixed; and so that none of them stays zero.
///
/// @param by  how far, in parts of each
IT3_API void move(const std::vector<at::Tensor>& weights, double by = 0.25);

/// Moves weights a little, by parts that differ along their last dimension, and those that are zero not at all: a point
/// that is special, as one whose layers start as zeros, stays special.
///
/// @param by  how far at most, in parts of each
IT3_API void vary(const std::vector<at::Tensor>& weights, double by);

/// Gives what is to be compared for some inputs, with weights that are varied by so much. Where there is more than one,
/// the later ones count if they are finite.
using OutputsFor = std::function<std::vector<NetworkOutputs>(const Inputs& inputs, double varied_by)>;

/// How outputs differ from those that are right, by more than rounding; empty if they do not.
///
/// @param actual  for the inputs and the weights as they are
/// @param expected  for the inputs and the weights as they are
/// @param inputs  the inputs
/// @param actual_for  for other inputs and weights
/// @param expected_for  for other inputs and weights
///
/// Each tensor may differ by 1e-4 of its norm in float32, by 1e-2 on CUDA, where convolutions round more, by 3e-2 in
/// half precision and by 1e-8 in double precision. A network may amplify rounding: each may also differ by ten times as
/// much as it changes for inputs that are off by rounding, at most by a hundredth of its norm. If one changes by more
/// than a two-hundredth, that was a jump, as of a mask, and allows nothing more.
///
/// Gradients jump where rounding decides which side of a ReLU, or which element of a pool, a number is on. If they
/// alone differ, and by less than a tenth, the weights are varied in eight ways, where other numbers are close to such
/// a turn, and each output has to agree once: what is wrong with a network is wrong there too. Weights with which a
/// gradient becomes small beside the others say nothing. Large networks have turns nearly everywhere: there, each
/// gradient may differ, over at least four of these, by three times as much as rounding of the inputs moves it, of
/// which no more than a fiftieth counts.
IT3_API std::string difference(
    const std::vector<NetworkOutputs>& actual,
    const std::vector<NetworkOutputs>& expected,
    const Inputs& inputs,
    const OutputsFor& actual_for,
    const OutputsFor& expected_for);

/// The same inputs in memory of their own, as forward() may write to them.
IT3_API Inputs copies_of(const Inputs& inputs);

}  // namespace it3
