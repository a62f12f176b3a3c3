#include <it3/adapt.h>

#include <ATen/ATen.h>

#include "adapt/adapt_once.h"
#include "adapt/per_sample.h"
#include "support/without_cudnn.h"

namespace it3 {

Adaptation adapt(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online* online,
    bool with_details,
    Graphs* graphs) {
  options.validate();
  const auto turn = network.take_turn();
  // Whoever keeps adapted weights in the model has them to himself, whatever the kind of network.
  const auto turn_online = online != nullptr ? ModelLock(tensors_of(network.parameters())).wait() : ModelLock::Turn();
  const auto once = [&] {
    if (options.per_sample) return detail::adapt_per_sample(network, method, options, inputs, with_details, graphs);
    return detail::adapt_once(network, method, options, inputs, online, with_details, graphs);
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
