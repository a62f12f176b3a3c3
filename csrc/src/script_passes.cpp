#include "script_passes.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/List.h>
#include <c10/util/Exception.h>

namespace it3::detail {
namespace {

using torch::jit::Stack;

/// forward()'s arguments by its schema: defaults filled in, keywords put in their places, without self.
Stack arguments_of(const torch::jit::Module& module, const Inputs& inputs) {
  const auto method = module.get_method("forward");
  Stack stack = {module._ivalue()};
  stack.insert(stack.end(), inputs.args.begin(), inputs.args.end());
  method.function().getSchema().checkAndNormalizeInputs(stack, inputs.kwargs);
  stack.erase(stack.begin());
  return stack;
}

/// A value that can be written to without anybody's noticing.
c10::IValue own_copy(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor().clone();
  if (value.isList()) return value.toList().copy();
  return value;
}

at::Tensor run_tail(
    const ScriptCut& cut,
    const std::vector<c10::IValue>& carried,
    const std::vector<at::Tensor>& lifted,
    const at::Tensor& features) {
  Stack stack;
  stack.reserve(carried.size() + lifted.size());
  stack.emplace_back(features);
  stack.insert(stack.end(), carried.begin() + 1, carried.end());
  if (cut.tail_writes) {
    for (std::size_t i = 0; i <= cut.crossing; ++i) stack[i] = own_copy(stack[i]);
  }
  stack.insert(stack.end(), lifted.begin(), lifted.end());
  torch::jit::InterpreterState(cut.tail).run(stack);
  at::Tensor prediction = first_tensor(stack.at(0));
  TORCH_CHECK_TYPE(
      prediction.defined(), "the module returned a ", stack.at(0).tagKind(),
      "; it must return a tensor, or a tuple, list or dict whose first tensor is the prediction");
  return prediction;
}

/// Carries (features, crossing..., inputs...).
FirstPass run_head(const ScriptCut& cut, Stack arguments, const std::vector<at::Tensor>& lifted) {
  Stack stack = arguments;
  stack.insert(stack.end(), lifted.begin(), lifted.end());
  torch::jit::InterpreterState(cut.head).run(stack);
  FirstPass first;
  first.carried = std::move(stack);
  first.carried.insert(
      first.carried.end(), std::make_move_iterator(arguments.begin()), std::make_move_iterator(arguments.end()));
  return first;
}

bool is_in_channels_last(const at::Tensor& t) {
  return t.dim() == 4 && !t.is_contiguous() && t.is_contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace

/// The module's own tensors; copies of those that the graphs write to, unless `writable`.
std::vector<at::Tensor> lifted_tensors(const ScriptCut& cut, bool writable) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(cut.lifted.size());
  for (const auto& lifted : cut.lifted) {
    const at::Tensor tensor = lifted.get();
    // All inputs of a graph may be one another's aliases, so that a write to one counts as a write to each; a tensor
    // that requires a gradient cannot be written to.
    const bool may_change = lifted.is_written && !tensor.requires_grad();
    tensors.push_back(may_change && !writable ? tensor.clone() : tensor);
  }
  return tensors;
}

FirstPass ScriptPasses::prepare(const Inputs& inputs) {
  return run_head(*cut_, arguments_of(module_, inputs), lifted_);
}

FirstPass ScriptPasses::predict(const Inputs& inputs, const Inject* inject) {
  FirstPass first = prepare(inputs);
  first.prediction = resume(inputs, first, inject);
  return first;
}

at::Tensor ScriptPasses::resume(const Inputs& /*inputs*/, const FirstPass& first, const Inject* inject) {
  at::Tensor features = first.carried[0].toTensor();
  if (inject != nullptr) {
    features = (*inject)(inject->takes_any_layout() ? features : in_usual_layout(features, first));
  }
  return in_usual_layout(run_tail(*cut_, first.carried, lifted_, features), first);
}

/// What leaves the graph as it would with the module's own weights: not in channels_last, unless the inputs are.
at::Tensor ScriptPasses::in_usual_layout(const at::Tensor& t, const FirstPass& first) const {
  if (!has_other_layout_ || !is_in_channels_last(t)) return t;
  const auto inputs = first.carried.end() - static_cast<std::ptrdiff_t>(cut_->inputs);
  const bool is_usual = std::any_of(inputs, first.carried.end(), [](const c10::IValue& input) {
    return input.isTensor() && is_in_channels_last(input.toTensor());
  });
  return is_usual ? t : t.contiguous();
}

}  // namespace it3::detail
