#include <it3/uncertainty.h>

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "answer.h"
#include "neutral.h"
#include "random_state_guard.h"

namespace it3 {

at::Tensor sample_distances(const at::Tensor& second, const at::Tensor& first) {
  at::Tensor difference = second - first;
  if (at::isReducedFloatingType(difference.scalar_type())) difference = difference.to(at::kFloat);
  if (difference.dim() == 0) difference = difference.unsqueeze(0);
  return difference.reshape({difference.size(0), -1}).norm(2, 1);
}

at::Tensor uncertainty(
    Network& network, const Method& method, const Inputs& inputs, const Normalisation& normalisation) {
  const c10::InferenceMode no_inference(false);
  const detail::RandomStateGuard random_state(tensors_of(network.parameters()), /*always=*/true);  // it only looks
  const auto copy = network.checkout({}, normalisation);
  const detail::Passes passes(method, inputs, detail::neutral_signal(*copy, method, inputs));
  const detail::Answer answer = detail::answer_of(*copy, passes, PredictionName::first, /*with_second=*/true);
  return sample_distances(answer.second, answer.first);
}

double quantile_of(const std::vector<at::Tensor>& values, double quantile) {
  TORCH_CHECK_VALUE(quantile >= 0 && quantile <= 1, "quantile must be a number from 0 to 1, not ", quantile);
  TORCH_CHECK_VALUE(!values.empty(), "there are no batches to calibrate with");
  std::vector<at::Tensor> flat;
  flat.reserve(values.size());
  for (const auto& v : values) flat.push_back(v.detach().flatten().to(at::kCPU, at::kDouble));
  const at::Tensor sorted = std::get<0>(at::sort(at::cat(flat)));
  TORCH_CHECK_VALUE(sorted.numel() > 0, "there are no samples to calibrate with");
  // at::quantile takes no more than 16 million values.
  const double position = quantile * static_cast<double>(sorted.numel() - 1);
  const auto below = static_cast<std::int64_t>(position);
  const std::int64_t above = std::min(below + 1, sorted.numel() - 1);
  const double low = sorted[below].item<double>();
  return low + (position - static_cast<double>(below)) * (sorted[above].item<double>() - low);
}

}  // namespace it3
