#include <it3/injection.h>

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>

#include "as_real.h"
#include "neutral.h"
#include "pass_inputs.h"
#include "passes.h"
#include "random_state_guard.h"

namespace it3 {

bool check_injection(Network& network, const Method& method, const Inputs& given) {
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  const detail::RandomStateGuard random_state(tensors_of(network.parameters()), /*always=*/true);
  const Inputs constants = as_constants(given);
  detail::PassInputs inputs(given, constants, network.may_write_inputs());
  const auto copy = network.checkout({});
  const at::Tensor neutral = detail::neutral_signal(*copy, method, inputs);
  detail::Passes passes(method, inputs, neutral);
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
  std::vector<at::Tensor> gradients;
  if (second.requires_grad() && !injected.empty()) {
    gradients = torch::autograd::grad(
        {detail::as_real(second).sum()}, injected, {}, std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
  }
  const bool is_reached =
      std::any_of(gradients.begin(), gradients.end(), [](const at::Tensor& g) { return g.defined(); });
  // Where gradients are cut off, values may still tell.
  TORCH_CHECK_VALUE(
      is_reached || !at::equal(second, first.prediction),
      "what is injected at the layer does not reach the prediction, so that there is nothing to adapt by: the model does "
      "not go on with that output of the layer. If the layer returns several tensors, such as an LSTM's output and its "
      "last states, say by layer_output which one the model uses, as layer_output=(1, 0); else name another layer");
  return true;
}

}  // namespace it3
