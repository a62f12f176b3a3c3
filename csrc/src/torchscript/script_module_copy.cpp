#include "torchscript/script_module_copy.h"

#include <ATen/core/grad_mode.h>

namespace it3::detail {
namespace {

MemoryCopies copies_in(const torch::jit::Module& module) {
  const at::NoGradGuard no_grad;
  return MemoryCopies(tensors_in(module._ivalue()));
}

torch::jit::Module copy_with(const torch::jit::Module& module, const MemoryCopies& copies) {
  c10::IValue::HashIdentityIValueMap memo;
  for (const at::Tensor& t : tensors_in(module._ivalue())) {
    const at::Tensor copy = copies(t);
    if (t.requires_grad()) copy.set_requires_grad(true);
    memo.emplace(t, copy);
  }
  return torch::jit::Module(module._ivalue()->deepcopy(memo));
}

}  // namespace

ScriptModuleCopy::ScriptModuleCopy(const torch::jit::Module& of)
    : copies(copies_in(of)), module(copy_with(of, copies)) {}

}  // namespace it3::detail
