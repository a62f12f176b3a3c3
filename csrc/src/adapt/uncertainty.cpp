#include <it3/backend/uncertainty.h>

#include <it3/adapt.h>

#include "support/random_state_guard.h"

namespace it3 {

Adaptation predict_twice(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options,
    const CompiledKinds* compiled) {
  options.validate();
  const detail::RandomStateGuard random_state(tensors_of(network.parameters()), /*always=*/true);
  Options without_steps = options;
  without_steps.num_steps = 0;
  without_steps.threshold.reset();
  without_steps.prediction = PredictionKind::first;
  return adapt(
      {.network = network,
       .method = method,
       .options = without_steps,
       .inputs = inputs,
       .with_details = true,
       .compiled = compiled});
}

at::Tensor uncertainty(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options,
    const CompiledKinds* compiled) {
  return predict_twice(network, method, inputs, options, compiled).uncertainty();
}

}  // namespace it3
