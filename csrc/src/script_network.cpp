#include <it3/script_network.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/core/List.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <it3/layout.h>

#include "lifted_tensor.h"
#include "nearest_name.h"
#include "script_cut.h"
#include "tensor_identity.h"

namespace it3 {

/// Where a module keeps its parameters and its train/eval flags.
struct detail::ScriptSlots {
  struct Parameter {
    std::string name;
    AttributeSlot tensor;
    bool of_normalisation;
  };
  std::vector<Parameter> parameters;
  std::vector<AttributeSlot> training;
};

namespace {

using detail::ScriptCut;
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

bool is_in_channels_last(const at::Tensor& t) {
  return t.dim() == 4 && !t.is_contiguous() && t.is_contiguous(at::MemoryFormat::ChannelsLast);
}

/// oneDNN's convolutions need not reorder what comes in channels_last.
bool is_in_channels_last_faster(const at::Tensor& weight) {
  return weight.dim() == 4 && weight.is_cpu() && weight.is_contiguous();
}

/// A cut's passes on some tensors.
class ScriptPasses : public TwoPass {
 public:
  ScriptPasses(
      const torch::jit::Module& module,
      std::shared_ptr<const ScriptCut> cut,
      std::vector<at::Tensor> lifted,
      bool has_other_layout)
      : module_(module), cut_(std::move(cut)), lifted_(std::move(lifted)), has_other_layout_(has_other_layout) {}

  FirstPass prepare(const Inputs& inputs) override { return run_head(*cut_, arguments_of(module_, inputs), lifted_); }

  FirstPass predict(const Inputs& inputs, const Inject* inject) override {
    FirstPass first = prepare(inputs);
    first.prediction = resume(inputs, first, inject);
    return first;
  }

  at::Tensor resume(const Inputs& /*inputs*/, const FirstPass& first, const Inject* inject) override {
    at::Tensor features = first.carried[0].toTensor();
    if (inject != nullptr) {
      features = (*inject)(inject->takes_any_layout() ? features : in_usual_layout(features, first));
    }
    return in_usual_layout(run_tail(*cut_, first.carried, lifted_, features), first);
  }

 private:
  /// What leaves the graph as it would with the module's own weights: not in channels_last, unless the inputs are.
  at::Tensor in_usual_layout(const at::Tensor& t, const FirstPass& first) const {
    if (!has_other_layout_ || !is_in_channels_last(t)) return t;
    const auto inputs = first.carried.end() - static_cast<std::ptrdiff_t>(cut_->inputs);
    const bool is_usual = std::any_of(inputs, first.carried.end(), [](const c10::IValue& input) {
      return input.isTensor() && is_in_channels_last(input.toTensor());
    });
    return is_usual ? t : t.contiguous();
  }

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  std::vector<at::Tensor> lifted_;
  bool has_other_layout_;
};

class ScriptWorkingCopy : public WorkingCopy {
 public:
  ScriptWorkingCopy(
      const torch::jit::Module& module,
      std::shared_ptr<const ScriptCut> cut,
      const std::vector<NamedParameter>& adapted)
      : module_(module), cut_(std::move(cut)), lifted_(lifted_tensors(*cut_, /*writable=*/false)) {
    std::map<detail::TensorIdentity, std::vector<std::size_t>> places;
    std::set<detail::TensorIdentity> convolution_weights;
    for (std::size_t i = 0; i < lifted_.size(); ++i) {
      const auto identity = detail::identity_of(lifted_[i]);
      places[identity].push_back(i);
      if (cut_->lifted[i].is_convolution_weight) convolution_weights.insert(identity);
      lifted_[i] = lifted_[i].detach();
    }
    for (const auto& parameter : adapted) {
      own_.push_back(parameter.tensor);
      const auto identity = detail::identity_of(parameter.tensor);
      const bool is_faster = is_in_channels_last_faster(parameter.tensor) && convolution_weights.contains(identity);
      has_other_layout_ |= is_faster;
      values_.push_back(
          parameter.tensor.detach().clone(is_faster ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve));
      leaves_.push_back(values_.back().detach().requires_grad_());
      places_.push_back(places[identity]);
    }
    passes_ = passes_with(leaves_);
  }

  FirstPass prepare(const Inputs& inputs) override { return passes_->prepare(inputs); }
  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return passes_->predict(inputs, inject); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return passes_->resume(inputs, first, inject);
  }
  const std::vector<at::Tensor>& leaves() const override { return leaves_; }
  const std::vector<at::Tensor>& values() const override { return values_; }
  bool has_plain_graphs() const override { return true; }

  bool has_fixed_head() const override {
    const auto is_in_tail = [&](std::size_t place) { return !cut_->lifted[place].is_in_head; };
    return cut_->is_head_fixed && std::all_of(places_.begin(), places_.end(), [&](const auto& places) {
             return std::all_of(places.begin(), places.end(), is_in_tail);
           });
  }

  std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) override {
    std::vector<at::Tensor> constants;
    constants.reserve(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      constants.push_back(values[i].detach().to(values_[i].scalar_type()));
    }
    return passes_with(constants);
  }

  void commit() override {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < own_.size(); ++i) own_[i].detach().copy_(values_[i]);
  }

 private:
  std::unique_ptr<ScriptPasses> passes_with(const std::vector<at::Tensor>& weights) const {
    std::vector<at::Tensor> lifted = lifted_;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      for (const std::size_t place : places_[i]) lifted[place] = weights[i];
    }
    return std::make_unique<ScriptPasses>(module_, cut_, std::move(lifted), has_other_layout_);
  }

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  bool has_other_layout_ = false;
  std::vector<at::Tensor> lifted_;                // all constants
  std::vector<std::vector<std::size_t>> places_;  // of each adapted parameter among the lifted tensors
  std::vector<at::Tensor> own_, values_, leaves_;
  std::unique_ptr<ScriptPasses> passes_;
};

std::shared_ptr<const detail::ScriptSlots> slots_of(const torch::jit::Module& module) {
  auto slots = std::make_shared<detail::ScriptSlots>();
  for (const auto& submodule : module.named_modules()) {
    const auto type_name = submodule.value.type()->name();
    const bool of_normalisation = type_name && is_normalisation(type_name->name());
    const std::string prefix = submodule.name.empty() ? "" : submodule.name + ".";
    for (const auto& parameter : submodule.value.named_parameters(/*recurse=*/false)) {
      slots->parameters.push_back({prefix + parameter.name, {submodule.value, parameter.name}, of_normalisation});
    }
    if (submodule.value.hasattr("training")) slots->training.emplace_back(submodule.value, "training");
  }
  return slots;
}

}  // namespace

ScriptNetwork::ScriptNetwork(torch::jit::Module module, std::string layer)
    : module_(std::move(module)), layer_(std::move(layer)), slots_(slots_of(module_)) {
  std::vector<std::string> names;
  for (const auto& submodule : module_.named_modules()) names.push_back(submodule.name);
  TORCH_CHECK_VALUE(
      std::find(names.begin(), names.end(), layer_) != names.end(), "the model has no layer '", layer_,
      "'; did you mean '", detail::nearest_name(layer_, names), "'? Its layers are ", detail::join(names));
  cut();
}

std::shared_ptr<const ScriptCut> ScriptNetwork::cut(const Normalisation& normalisation) const {
  std::vector<bool> flags;
  for (const auto& flag : slots_->training) flags.push_back(flag.get().toBool());
  const std::scoped_lock lock(mutex_);
  auto& known = cuts_[{flags, normalisation.statistics, normalisation.prior}];
  if (known == nullptr) known = std::make_shared<const ScriptCut>(detail::cut_script(module_, layer_, normalisation));
  return known;
}

FirstPass ScriptNetwork::prepare(const Inputs& inputs) {
  const auto current = cut();
  return run_head(*current, arguments_of(module_, inputs), lifted_tensors(*current, /*writable=*/true));
}

FirstPass ScriptNetwork::predict(const Inputs& inputs, const Inject* inject) {
  const auto current = cut();
  return ScriptPasses(module_, current, lifted_tensors(*current, /*writable=*/true), false).predict(inputs, inject);
}

at::Tensor ScriptNetwork::resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) {
  const auto current = cut();
  // Running statistics are the first pass's to update.
  return ScriptPasses(module_, current, lifted_tensors(*current, /*writable=*/false), false)
      .resume(inputs, first, inject);
}

std::vector<NamedParameter> ScriptNetwork::parameters() const {
  std::vector<NamedParameter> parameters;
  std::unordered_set<at::TensorImpl*> seen;
  parameters.reserve(slots_->parameters.size());
  for (const auto& slot : slots_->parameters) {
    const at::Tensor& tensor = slot.tensor.get().toTensor();
    const bool has_gradients = tensor.is_floating_point() || tensor.is_complex();
    if (!has_gradients || !seen.insert(tensor.unsafeGetTensorImpl()).second) continue;
    parameters.push_back({slot.name, tensor, slot.of_normalisation});
  }
  return parameters;
}

bool ScriptNetwork::has_repeatable_head() const { return cut()->is_head_fixed; }

torch::jit::Module ScriptNetwork::with_weights(const std::vector<std::pair<std::string, at::Tensor>>& weights) const {
  const at::NoGradGuard no_grad;
  torch::jit::Module copy = module_.deepcopy();
  std::map<std::string, at::Tensor> by_name;
  for (const auto& parameter : copy.named_parameters()) by_name.emplace(parameter.name, parameter.value);
  for (const auto& [name, value] : weights) by_name.at(name).copy_(value);
  return copy;
}

std::unique_ptr<WorkingCopy> ScriptNetwork::checkout(
    const std::vector<NamedParameter>& adapted, const Normalisation& normalisation) {
  return std::make_unique<ScriptWorkingCopy>(module_, cut(normalisation), adapted);
}

}  // namespace it3
