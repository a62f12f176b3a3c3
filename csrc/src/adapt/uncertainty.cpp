#include <it3/backend/uncertainty.h>

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/adapt.h>

#include "support/random_state_guard.h"
#include "support/sample_names.h"

namespace it3 {

at::Tensor sample_distances(const at::Tensor& second, const at::Tensor& first, std::int64_t batch_dim) {
  at::Tensor difference = second - first;
  if (at::isReducedFloatingType(difference.scalar_type())) difference = difference.to(at::kFloat);
  if (difference.dim() == 0) difference = difference.unsqueeze(0);
  return difference.movedim(batch_dim, 0).unsqueeze(1).flatten(1).norm(2, 1);
}

at::Tensor uncertainty(
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
  const Adaptation unadapted = adapt(
      {.network = network,
       .method = method,
       .options = without_steps,
       .inputs = inputs,
       .with_details = true,
       .compiled = compiled});
  return sample_distances(unadapted.second, unadapted.first, method.prediction_layout.batch_of(unadapted.first.dim()));
}

double quantile_of(const std::vector<at::Tensor>& values, double quantile) {
  TORCH_CHECK_VALUE(quantile >= 0 && quantile <= 1, "quantile must be a number from 0 to 1, not ", quantile);
  TORCH_CHECK_VALUE(!values.empty(), "there are no batches to calibrate with");
  std::vector<at::Tensor> flat;
  flat.reserve(values.size());
  for (const auto& v : values) flat.push_back(v.detach().flatten().to(at::kCPU, at::kDouble));
  const at::Tensor all = at::cat(flat);
  const at::Tensor non_finite = all.isfinite().logical_not();
  TORCH_CHECK_VALUE(
      !non_finite.any().item<bool>(), "‖y1 − y0‖ is not finite for ", detail::names_of_samples(non_finite),
      ", counted from 0 over all batches to calibrate with; leave these out, or check them for NaN and infinity");
  const at::Tensor sorted = std::get<0>(at::sort(all));
  TORCH_CHECK_VALUE(sorted.numel() > 0, "there are no samples to calibrate with");
  // at::quantile takes no more than 16 million values.
  const double position = quantile * static_cast<double>(sorted.numel() - 1);
  const auto below = static_cast<std::int64_t>(position);
  const std::int64_t above = std::min(below + 1, sorted.numel() - 1);
  const double low = sorted[below].item<double>();
  return low + (position - static_cast<double>(below)) * (sorted[above].item<double>() - low);
}

}  // namespace it3
