#include <it3/backend/uncertainty.h>

#include <ATen/ATen.h>

#include <it3/adapt.h>

#include "support/random_state_guard.h"

namespace it3 {

at::Tensor sample_distances(const at::Tensor& second, const at::Tensor& first, std::int64_t batch_dim) {
  at::Tensor difference = second - first;
  if (at::isReducedFloatingType(difference.scalar_type())) difference = difference.to(at::kFloat);
  if (difference.dim() == 0) difference = difference.unsqueeze(0);
  return difference.movedim(batch_dim, 0).unsqueeze(1).flatten(1).norm(2, 1);
}

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
  const Adaptation unadapted = predict_twice(network, method, inputs, options, compiled);
  return sample_distances(unadapted.second, unadapted.first, method.prediction_layout.batch_of(unadapted.first.dim()));
}

}  // namespace it3
