#include "method/measured_distance.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

namespace it3::detail {

at::Tensor as_scalar(const at::Tensor& distance) {
  TORCH_CHECK_VALUE(
      distance.sym_numel() == 1, "distance_fn must return a scalar, not a tensor of shape ", distance.sizes(),
      "; reduce it, by .mean() for example");
  return distance.reshape({});
}

at::Tensor measured(
    const Distance& distance,
    DistanceFunction Distance::* function,
    const at::Tensor& second,
    const at::Tensor& reference) {
  const auto& measure = distance.*function;
  return distance.name.empty() ? measure(second.clone(), reference.clone()) : measure(second, reference);
}

}  // namespace it3::detail
