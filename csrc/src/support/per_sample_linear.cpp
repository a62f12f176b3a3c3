#include "support/per_sample_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace it3::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct PerSampleLinear : torch::autograd::Function<PerSampleLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight) {
    context->save_for_backward({x, weight});
    return x.size(1) == 1 ? at::bmm(weight, x.mT()).mT() : at::bmm(x, weight.mT());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &g = gradients[0];
    return {
        context->needs_input_grad(0) ? at::bmm(g, weight) : at::Tensor(),
        context->needs_input_grad(1) ? at::bmm(g.mT(), x) : at::Tensor()};
  }
};

}  // namespace

at::Tensor per_sample_linear(const at::Tensor& x, const at::Tensor& weight) {
  return PerSampleLinear::apply(x, weight);
}

}  // namespace it3::detail
