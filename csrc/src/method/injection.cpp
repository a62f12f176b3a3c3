#include <it3/injection.h>

#include <algorithm>
#include <unordered_set>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include "method/neutral.h"
#include "method/passes.h"
#include "network/pass_inputs.h"
#include "support/random_state_guard.h"
#include "support/write_count.h"

namespace it3 {
namespace {

/// Whether a tensor's graph of autograd has one of these leaves.
bool reaches(const at::Tensor& result, const std::vector<at::Tensor>& leaves) {
  std::unordered_set<torch::autograd::Node*> wanted, seen;
  for (const at::Tensor& leaf : leaves) wanted.insert(torch::autograd::impl::gradient_edge(leaf).function.get());
  std::vector<torch::autograd::Node*> open = {result.grad_fn().get()};
  while (!open.empty()) {
    torch::autograd::Node* const node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (wanted.contains(node)) return true;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return false;
}

/// Whether two predictions differ by more than rounding, which depends on how a pass is run.
bool differ(const at::Tensor& one, const at::Tensor& other) {
  const at::ScalarType type = c10::toRealValueType(one.scalar_type());
  const double rounding = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 1e-2;
  const double size = other.detach().abs().nan_to_num(0, 0, 0).max().item<double>();
  return !at::allclose(one.detach(), other.detach(), rounding, rounding * size, /*equal_nan=*/true);
}

}  // namespace

bool check_injection(Network& network, const Method& method, const Inputs& given) {
  const auto parameters = tensors_of(network.parameters());
  // Autograd, which tells, cannot record what is done with tensors that were made in inference mode.
  if (std::any_of(parameters.begin(), parameters.end(), [](const auto& p) { return !detail::counts_writes(p); }))
    return false;
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  const detail::RandomStateGuard random_state(parameters, /*always=*/true);
  const Inputs constants = as_constants(given);
  detail::PassInputs inputs(given, constants, network.may_write_inputs());
  const auto copy = network.checkout({});
  const at::Tensor neutral = detail::neutral_signal(*copy, method, inputs);
  const detail::Passes passes(method, inputs, neutral);
  FirstPass first;
  {
    const at::NoGradGuard no_grad;
    first = passes.first(*copy);
  }
  if (first.prediction.numel() == 0) return false;
  std::vector<at::Tensor> injected;
  const Inject plain = detail::injection(method, passes.signal(first.prediction));
  const Inject inject(
      [&](const at::Tensor& features) {
        const at::NoGradGuard no_grad;
        injected.push_back(plain(features).detach().requires_grad_());
        const at::AutoGradMode recording(true);
        return injected.back().clone();  // which may be written to, unlike a leaf
      },
      method.takes_any_layout);
  const at::Tensor second = copy->resume(inputs.next(), first, &inject);
  // By the graph alone, as running it backwards may run parts of the model again (activation checkpointing).
  const bool is_reached = reaches(second, injected);
  // Where gradients are cut off, values may still tell.
  TORCH_CHECK_VALUE(
      is_reached || differ(second, first.prediction),
      "what is injected at the layer does not reach the prediction, so that y1 equals y0 and nothing can adapt. If the "
      "layer returns several tensors, such as the output and the last states of an LSTM, choose the one that the model "
      "uses by layer_output, for example layer_output=(1, 0); else name another layer");
  return true;
}

}  // namespace it3
