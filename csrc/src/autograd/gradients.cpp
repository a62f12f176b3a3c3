#include "autograd/gradients.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>

#include "autograd/plain_backward.h"

namespace it3::detail {

std::vector<at::Tensor> gradients_of(
    const at::Tensor& output, const std::vector<at::Tensor>& leaves, bool is_plain, const at::Tensor& gradient) {
  std::optional<std::vector<at::Tensor>> gradients;
  if (!output.requires_grad()) {
    gradients.emplace();
  } else {
    const at::Tensor start = gradient.defined() ? gradient : at::ones_like(output);
    if (is_plain) gradients = plain_backward(output, start, leaves);
    if (!gradients) {
      gradients = torch::autograd::grad(
          {output}, leaves, {start}, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
          /*allow_unused=*/true);
    }
  }
  TORCH_CHECK_VALUE(
      std::any_of(gradients->begin(), gradients->end(), [](const auto& g) { return g.defined(); }),
      "the distance does not depend on any parameter that adapts; check that distance_fn, combine_fn and the model do "
      "not detach, and which parameters are selected");
  return std::move(*gradients);
}

}  // namespace it3::detail
