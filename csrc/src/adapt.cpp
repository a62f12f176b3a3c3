#include <it3/adapt.h>

#include <ATen/ATen.h>

#include "adapt_once.h"
#include "per_sample.h"
#include "without_cudnn.h"

namespace it3 {

at::Tensor Adaptation::loss() const {
  return steps() == 0 ? at::zeros(losses.sizes().slice(1), losses.options()) : losses[steps() - 1];
}

Adaptation adapt(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online* online,
    bool in_full,
    Graphs* graphs) {
  options.validate();
  const auto turn = network.take_turn();
  // Whoever keeps adapted weights in the model has them to himself, whatever the kind of network.
  const auto turn_online = online != nullptr ? ModelLock(tensors_of(network.parameters())).wait() : ModelLock::Turn();
  const auto once = [&] {
    if (options.per_sample) return detail::adapt_each(network, method, options, inputs, in_full, graphs);
    return detail::adapt_once(network, method, options, inputs, online, in_full, graphs);
  };
  if (!network.runs_without_cudnn()) {
    try {
      return once();
    } catch (const std::exception& error) {
      if (!detail::is_cudnn_in_eval_mode(error)) throw;
      network.run_without_cudnn();
    }
  }
  const detail::WithoutCudnn without_cudnn;
  return once();
}

}  // namespace it3
