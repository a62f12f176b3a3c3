#include <it3/backend/script_function.h>

#include <algorithm>

#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include "torchscript/run_code.h"

namespace it3 {

ScriptFunction::ScriptFunction(torch::jit::Module module) : module_(std::move(module)) {
  const torch::jit::Method method = module_.get_method("forward");
  const auto& arguments = method.function().getSchema().arguments();  // the first is the module
  const auto needed = std::count_if(
      arguments.begin(), arguments.end(), [](const auto& argument) { return !argument.default_value().has_value(); });
  TORCH_CHECK_VALUE(
      needed <= 3 && arguments.size() >= 2, "forward() of ", module_.type()->str(), " takes ", needed - 1,
      " arguments; a function of an engine takes one tensor or two");
  takes_both_ = needed == 3;
  // Inlined and run by the plain interpreter: its results do not depend on earlier calls, as an optimizing executor's
  // can.
  const auto graph = torch::jit::toGraphFunction(method.function()).graph()->copy();
  torch::jit::Inline(*graph);
  code_ = std::make_shared<const torch::jit::Code>(graph, "it3_function");
}

at::Tensor ScriptFunction::operator()(const at::Tensor& a, const at::Tensor& b) const {
  torch::jit::Stack stack = {module_._ivalue(), a};
  if (takes_both_) stack.emplace_back(b);
  module_.get_method("forward").function().getSchema().checkAndNormalizeInputs(stack, {});
  detail::run_code(*code_, stack);
  const c10::IValue& result = stack.at(0);
  TORCH_CHECK_TYPE(result.isTensor(), "a TorchScript function must return a tensor, but returned a ", result.tagKind());
  return result.toTensor();
}

}  // namespace it3
