#include "torchscript/script_passes.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "support/tensor_memory.h"
#include "torchscript/run_code.h"

namespace it3::detail {
namespace {

using torch::jit::Stack;

bool is_in_channels_last(const at::Tensor& t) {
  return t.dim() == 4 && !t.is_contiguous() && t.is_contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace

Stack script_arguments_of(const torch::jit::Module& module, const Inputs& inputs) {
  const auto method = module.get_method("forward");
  Stack stack = {module._ivalue()};
  stack.insert(stack.end(), inputs.args.begin(), inputs.args.end());
  method.function().getSchema().checkAndNormalizeInputs(stack, {inputs.kwargs.begin(), inputs.kwargs.end()});
  stack.erase(stack.begin());
  return stack;
}

std::vector<at::Tensor> lifted_tensors(const ScriptCut& cut, bool writable) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(cut.lifted.size());
  for (const auto& lifted : cut.lifted) tensors.push_back(lifted.get());
  if (!writable) copy_written(cut, tensors);
  return tensors;
}

void copy_written(const ScriptCut& cut, std::vector<at::Tensor>& lifted) {
  const auto is_written = [](const LiftedTensor& t) { return t.is_written; };
  if (std::none_of(cut.lifted.begin(), cut.lifted.end(), is_written)) return;
  std::vector<bool> written;
  written.reserve(cut.lifted.size());
  for (const auto& t : cut.lifted) written.push_back(t.is_written);
  const auto copies = copies_of_written({lifted.begin(), lifted.end()}, written);
  for (std::size_t i = 0; i < lifted.size(); ++i) lifted[i] = copies[i].toTensor();
}

/// (features, crossing...)
ScriptPasses::Values ScriptPasses::run_head(const Values& arguments) const {
  Stack stack = arguments;
  stack.insert(stack.end(), lifted_.begin(), lifted_.end());
  run_code(cut_->head, stack);
  return stack;
}

/// @param handed  (features, crossing..., inputs...)
/// @param is_own  whether they may be written to, as forward() does
at::Tensor ScriptPasses::run_tail(Values handed, const Inject* inject, bool is_own) const {
  const auto inputs = handed.end() - static_cast<std::ptrdiff_t>(cut_->inputs);
  const bool is_usual = !has_other_layout_ || std::any_of(inputs, handed.end(), [](const c10::IValue& input) {
    return input.isTensor() && is_in_channels_last(input.toTensor());
  });
  if (inject != nullptr) {
    const at::Tensor features = handed[0].toTensor();
    at::Tensor injected = (*inject)(inject->takes_any_layout() ? features : in_usual_layout(features, is_usual));
    handed[0] = is_own && cut_->written_in_tail[0] ? injected.clone() : std::move(injected);
  }
  if (!is_own) handed = copies_of_written(std::move(handed), cut_->written_in_tail);
  handed.insert(handed.end(), lifted_.begin(), lifted_.end());
  run_code(cut_->tail, handed);
  return in_usual_layout(tensor_at(handed.at(0), cut_->output), is_usual);
}

/// A FirstPass carries (features, crossing..., inputs...) as they are behind the head; and, if the head has to be
/// repeated, the inputs as they were before it.
std::pair<ScriptPasses::Values, FirstPass> ScriptPasses::start(const Inputs& inputs) {
  for (std::size_t i = 0; i < lifted_.size(); ++i) {
    // What was left in a buffer before is a constant from here on: its graph may be gone.
    const bool keeps_graph = cut_->lifted[i].is_written && lifted_[i].grad_fn() != nullptr;
    if (keeps_graph) lifted_[i] = lifted_[i].detach();
  }
  Values arguments = script_arguments_of(module_, inputs);
  if (cut_->place.sizes != nullptr) cut_->place.sizes->check(arguments);
  const std::vector<bool> all_arguments(arguments.size(), cut_->writes_inputs);
  Values before;
  if (cut_->repeats_head) before = cut_->writes_inputs ? copies_of_written(arguments, all_arguments) : arguments;
  Values handed = run_head(arguments);
  handed.insert(handed.end(), std::make_move_iterator(arguments.begin()), std::make_move_iterator(arguments.end()));
  FirstPass first;
  const std::vector<bool> all(handed.size(), true);
  // What the caller gave may change once the pass is over.
  first.carried = cut_->writes_inputs ? copies_of_written(handed, all) : handed;
  first.carried.insert(first.carried.end(), before.begin(), before.end());
  return {std::move(handed), std::move(first)};
}

FirstPass ScriptPasses::prepare(const Inputs& inputs) { return start(inputs).second; }

FirstPass ScriptPasses::predict(const Inputs& inputs, const Inject* inject) {
  if (!cut_->writes_inputs) {
    FirstPass first = prepare(inputs);
    first.prediction = run_tail(behind_head(first), inject, /*is_own=*/false);
    return first;
  }
  // As one plain call, which writes to what it is given.
  auto [handed, first] = start(inputs);
  first.prediction = run_tail(std::move(handed), inject, /*is_own=*/true);
  return std::move(first);
}

at::Tensor ScriptPasses::resume(const Inputs& /*inputs*/, const FirstPass& first, const Inject* inject) {
  if (!cut_->repeats_head) return run_tail(behind_head(first), inject, /*is_own=*/false);
  const auto behind = static_cast<std::ptrdiff_t>(cut_->written_in_tail.size());
  const Values before(first.carried.begin() + behind, first.carried.end());
  const Values arguments = copies_of_written(before, std::vector<bool>(before.size(), cut_->writes_inputs));
  Values handed = run_head(arguments);
  handed.insert(handed.end(), arguments.begin(), arguments.end());
  return run_tail(std::move(handed), inject, /*is_own=*/true);
}

/// (features, crossing..., inputs...)
ScriptPasses::Values ScriptPasses::behind_head(const FirstPass& first) const {
  const auto count = static_cast<std::ptrdiff_t>(cut_->written_in_tail.size());
  return {first.carried.begin(), first.carried.begin() + count};
}

/// What leaves the graph as it would with the module's own weights: not in channels_last, unless the inputs are.
at::Tensor ScriptPasses::in_usual_layout(const at::Tensor& t, bool is_usual) const {
  return is_usual || !is_in_channels_last(t) ? t : t.contiguous();
}

}  // namespace it3::detail
