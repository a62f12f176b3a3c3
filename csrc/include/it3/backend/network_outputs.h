#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/network.h>

namespace it3::python {

/// What a network gives that is to be compared with another's.
struct NetworkOutputs {
  std::vector<at::Tensor> predictions;
  std::vector<at::Tensor> gradients;
  std::vector<at::Tensor> moved;  // the first prediction with other weights, and the norms that these have after it
};

/// Both predictions, the first one without gradients, and the gradients of all by all parameters, from the network as
/// it is; and the first prediction with weights that have moved, and the norms that this pass leaves them with.
NetworkOutputs outputs_of(Network& network, const Inputs& inputs, const std::vector<NamedParameter>& parameters);

/// How outputs differ from those that are right, by more than rounding; empty if they do not.
std::string difference(const NetworkOutputs& actual, const NetworkOutputs& expected);

/// The same inputs in memory of their own, as forward() may write to them.
Inputs copies_of(const Inputs& inputs);

}  // namespace it3::python
