#include <it3/script_network.h>

#include <algorithm>
#include <map>
#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <it3/backend/layout.h>

#include "support/nearest_name.h"
#include "support/tensor_identity.h"
#include "torchscript/lifted_tensor.h"
#include "torchscript/named_tensors.h"
#include "torchscript/script_comparison.h"
#include "torchscript/script_cut.h"
#include "torchscript/script_module_copy.h"
#include "torchscript/script_passes.h"
#include "torchscript/script_working_copy.h"

namespace it3 {

/// Where a module keeps its parameters and its train/eval flags.
struct detail::ScriptSlots {
  struct Parameter {
    std::string name;
    AttributeSlot tensor;
    bool of_normalization;
  };
  std::vector<Parameter> parameters;
  std::vector<AttributeSlot> training;
};

namespace {

using detail::compare_once;
using detail::ScriptCut;
using detail::ScriptPasses;

std::shared_ptr<const detail::ScriptSlots> slots_of(const torch::jit::Module& module) {
  auto slots = std::make_shared<detail::ScriptSlots>();
  for (const auto& submodule : module.named_modules()) {
    const auto type_name = submodule.value.type()->name();
    const bool of_normalization = type_name && is_normalization(type_name->name());
    const std::string prefix = submodule.name.empty() ? "" : submodule.name + ".";
    for (const auto& parameter : submodule.value.named_parameters(/*recurse=*/false)) {
      slots->parameters.push_back({prefix + parameter.name, {submodule.value, parameter.name}, of_normalization});
    }
    if (submodule.value.hasattr("training")) slots->training.emplace_back(submodule.value, "training");
  }
  return slots;
}

}  // namespace

CutRefusal::CutRefusal(const std::string& message, std::string why)
    : c10::ValueError(c10::SourceLocation{__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)}, message),
      why_(std::move(why)) {}

ScriptNetwork::ScriptNetwork(
    torch::jit::Module module,
    std::string layer,
    std::optional<OutputPath> output,
    std::optional<OutputPath> layer_output)
    : module_(std::move(module)),
      place_(
          std::make_shared<const detail::CutPlace>(
              detail::CutPlace{std::move(layer), std::move(output), std::move(layer_output)})),
      slots_(slots_of(module_)) {
  std::vector<std::string> names;
  for (const auto& submodule : module_.named_modules()) {
    if (!submodule.name.empty()) names.push_back(submodule.name);
  }
  TORCH_CHECK_VALUE(
      place_->layer.empty() || std::find(names.begin(), names.end(), place_->layer) != names.end(),
      "the model has no layer '", place_->layer, "'; did you mean '", detail::nearest_name(place_->layer, names),
      "'? Its layers are ", detail::join(names));
  cut();
}

const std::string& ScriptNetwork::layer() const { return place_->layer; }

const std::optional<OutputPath>& ScriptNetwork::output() const { return place_->output; }

const std::optional<OutputPath>& ScriptNetwork::layer_output() const { return place_->layer_output; }

std::shared_ptr<const ScriptCut> ScriptNetwork::cut(const Normalization& normalization, bool per_sample) const {
  return cut({true, normalization.statistics, normalization.prior, per_sample});
}

std::shared_ptr<const ScriptCut> ScriptNetwork::cut_as_it_is() const {
  const auto is_on = [](const detail::AttributeSlot& flag) { return flag.get().toBool(); };
  const bool in_eval_mode = std::none_of(slots_->training.begin(), slots_->training.end(), is_on);
  return cut({in_eval_mode, NormStatistics::running, std::nullopt, false});
}

std::shared_ptr<const ScriptCut> ScriptNetwork::cut(const Key& key) const {
  const std::scoped_lock lock(mutex_);
  auto& known = cuts_[key];
  if (known == nullptr || !known->is_current()) {
    const auto& [in_eval_mode, statistics, prior, per_sample] = key;
    known = std::make_shared<const ScriptCut>(
        detail::cut_script(module_, *place_, in_eval_mode, {statistics, prior}, per_sample));
  }
  return known;
}

FirstPass ScriptNetwork::prepare(const Inputs& inputs) {
  const auto current = cut_as_it_is();
  compare_once(module_, current, inputs);
  return ScriptPasses(module_, current, lifted_tensors(*current, /*writable=*/true), false).prepare(inputs);
}

FirstPass ScriptNetwork::predict(const Inputs& inputs, const Inject* inject) {
  const auto current = cut_as_it_is();
  compare_once(module_, current, inputs);
  return ScriptPasses(module_, current, lifted_tensors(*current, /*writable=*/true), false).predict(inputs, inject);
}

at::Tensor ScriptNetwork::resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) {
  const auto current = cut_as_it_is();
  // Running statistics are the first pass's to update.
  return ScriptPasses(module_, current, lifted_tensors(*current, /*writable=*/false), false)
      .resume(inputs, first, inject);
}

std::vector<NamedParameter> ScriptNetwork::parameters() const {
  if (named_) return *named_;
  std::vector<NamedParameter> parameters;
  std::unordered_set<const void*> seen;
  parameters.reserve(slots_->parameters.size());
  for (const auto& slot : slots_->parameters) {
    const at::Tensor& tensor = slot.tensor.get().toTensor();
    if (!tensor.is_floating_point() && !tensor.is_complex()) continue;
    // Tied parameters that come from a file are two tensors over one memory.
    const bool is_new = seen.insert(detail::identity_of(tensor).memory).second;
    const bool is_known = !is_new && std::any_of(parameters.begin(), parameters.end(), [&](const NamedParameter& p) {
      return detail::identity_of(p.tensor) == detail::identity_of(tensor);
    });
    if (!is_known) parameters.push_back({slot.name, tensor, slot.of_normalization});
  }
  return parameters;
}

std::vector<std::pair<std::string, at::Tensor>> ScriptNetwork::named_tensors() const {
  return detail::named_tensors(module_);
}

std::optional<Dependencies> ScriptNetwork::dependencies(const Normalization& normalization) const {
  const auto current = cut(normalization);
  return Dependencies{detail::lifted_tensors(*current, /*writable=*/true), current->id, current->writes_inputs};
}

bool ScriptNetwork::may_write_inputs() const { return cut()->writes_inputs; }

std::string ScriptNetwork::why_head_may_differ() const { return cut()->why_head_may_differ; }

void ScriptNetwork::limit_sizes(std::shared_ptr<const detail::SizeConditions> sizes) {
  detail::CutPlace place = *place_;
  place.sizes = std::move(sizes);
  const std::scoped_lock lock(mutex_);
  place_ = std::make_shared<const detail::CutPlace>(std::move(place));
  cuts_.clear();
}

bool ScriptNetwork::takes(const Inputs& inputs) const {
  return place_->sizes == nullptr || place_->sizes->hold_for(detail::script_arguments_of(module_, inputs));
}

torch::jit::Module ScriptNetwork::with_weights(const std::vector<std::pair<std::string, at::Tensor>>& weights) const {
  const at::NoGradGuard no_grad;
  torch::jit::Module copy = detail::ScriptModuleCopy(module_).module;
  std::map<std::string, at::Tensor> by_name;
  for (const auto& parameter : copy.named_parameters()) by_name.emplace(parameter.name, parameter.value);
  for (const auto& [name, value] : weights) by_name.at(name).copy_(value);
  return copy;
}

namespace {

std::string class_of(const torch::jit::Module& module) {
  const auto name = module.type()->name();
  return name ? name->name() : "";
}

/// A scripted module keeps its attributes, a traced one does not.
std::optional<bool> batch_first(const torch::jit::Module& module) {
  const auto slot = module.type()->findConstantSlot("batch_first");
  if (slot) return module.type()->getConstant(*slot).toBool();
  const bool is_attribute = module.hasattr("batch_first") && module.attr("batch_first").isBool();
  return is_attribute ? std::optional(module.attr("batch_first").toBool()) : std::nullopt;
}

LayerKind kind_of(const torch::jit::Module& module) {
  const auto tensor = [&](const std::string& name) {
    const bool is_tensor = module.hasattr(name) && module.attr(name).isTensor();
    return is_tensor ? module.attr(name).toTensor() : at::Tensor();
  };
  LayerKind kind = kind_of_layer(class_of(module), tensor, batch_first(module));
  // Another class of the same name may have its channels elsewhere.
  const auto name = module.type()->name();
  if (!name || name->qualifiedName().find("torch.nn.") == std::string::npos) kind.channel_dim.reset();
  return kind;
}

/// The kinds of modules in their order, what is in one before itself.
void append_kinds(const torch::jit::Module& module, std::vector<LayerKind>& kinds) {
  for (const auto& child : module.children()) append_kinds(child, kinds);
  const LayerKind kind = kind_of(module);
  if (kind.channel_dim || kind.channels) kinds.push_back(kind);
}

/// Whether what a module returns is what its last layer of a known kind does: it is one, or a chain that ends in one.
bool is_direct(const torch::jit::Module& module) {
  if (class_of(module) != "Sequential") return kind_of(module).channel_dim.has_value();
  std::optional<torch::jit::Module> last;
  for (const auto& child : module.children()) {
    if (!is_elementwise(class_of(child))) last = child;
  }
  return last && is_direct(*last);
}

}  // namespace

Origin ScriptNetwork::origin_of_prediction() const {
  Origin origin;
  append_kinds(module_, origin.inside);
  origin.is_direct = is_direct(module_);
  return origin;
}

Origin ScriptNetwork::origin_of_features() const {
  if (place_->layer.empty()) return origin_of_prediction();
  Origin origin;
  for (const auto& submodule : module_.named_modules()) {
    if (submodule.name == place_->layer) {
      append_kinds(submodule.value, origin.inside);
      origin.is_direct = is_direct(submodule.value);
      break;
    }
    const LayerKind kind = kind_of(submodule.value);
    const bool is_known = kind.channel_dim || kind.channels;
    if (is_known && !place_->layer.starts_with(submodule.name + ".")) origin.before.push_back(kind);
  }
  if (origin.inside.empty()) origin.inside.swap(origin.before);
  return origin;
}

std::unique_ptr<WorkingCopy> ScriptNetwork::checkout(
    const std::vector<NamedParameter>& adapted, const Normalization& normalization) {
  return std::make_unique<detail::ScriptWorkingCopy>(module_, cut(normalization), adapted);
}

std::unique_ptr<WorkingCopy> ScriptNetwork::checkout_per_sample(
    const std::vector<NamedParameter>& adapted, const Normalization& normalization, std::int64_t samples) {
  return std::make_unique<detail::ScriptWorkingCopy>(
      module_, cut(normalization, /*per_sample=*/true), adapted, samples);
}

}  // namespace it3
