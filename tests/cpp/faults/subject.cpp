#include "faults/subject.h"

#include <algorithm>
#include <cstring>

#include <ATen/autocast_mode.h>
#include <ATen/functorch/DynamicLayer.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <it3/script_network.h>

namespace it3::test {
namespace {

struct WholeImpl : torch::nn::Module {
  explicit WholeImpl(std::function<void()> called) : in_forward(std::move(called)) {}

  at::Tensor forward(const at::Tensor& x) {
    if (in_forward != nullptr) in_forward();
    return b(dropout(torch::tanh(point(norm(a(x))))));
  }

  std::function<void()> in_forward;
  torch::nn::Linear a = register_module("a", torch::nn::Linear(3, 4));
  torch::nn::BatchNorm1d norm = register_module("norm", torch::nn::BatchNorm1d(4));
  InjectionPoint point = register_module("point", InjectionPoint());
  torch::nn::Dropout dropout = register_module("dropout", torch::nn::Dropout(0.3));
  torch::nn::Linear b = register_module("b", torch::nn::Linear(4, 2));
};
TORCH_MODULE(Whole);

torch::jit::Module script_layer(
    const char* name,
    const char* returned,
    const std::vector<std::pair<const char*, at::Tensor>>& parameters,
    const std::vector<std::pair<const char*, at::Tensor>>& buffers = {}) {
  torch::jit::Module module(name);
  module.register_attribute("training", c10::BoolType::get(), false);
  for (const auto& [key, value] : parameters) module.register_parameter(key, value.requires_grad_(), false);
  for (const auto& [key, value] : buffers) module.register_buffer(key, value);
  module.define(std::string("def forward(self, x):\n  return ") + returned + "\n");
  return module;
}

torch::jit::Module script_model() {
  const char* const linear = "torch.linear(x, self.weight, self.bias)";
  torch::jit::Module model("Model");
  model.register_attribute("training", c10::BoolType::get(), false);
  model.register_module(
      "a", script_layer("A", linear, {{"weight", torch::randn({4, 3})}, {"bias", torch::randn({4})}}));
  model.register_module(
      "norm",
      script_layer(
          "Norm",
          "torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.training, 0.1, 1e-5, "
          "False)",
          {{"weight", torch::ones({4})}, {"bias", torch::zeros({4})}},
          {{"running_mean", torch::zeros({4})}, {"running_var", torch::ones({4})}}));
  model.register_module("dropout", script_layer("Dropout", "torch.dropout(x, 0.3, self.training)", {}));
  model.register_module(
      "b", script_layer("B", linear, {{"weight", torch::randn({2, 4})}, {"bias", torch::randn({2})}}));
  model.define(
      "def forward(self, x):\n"
      "  return self.b.forward(self.dropout.forward(torch.tanh(self.norm.forward(self.a.forward(x)))))\n");
  return model;
}

}  // namespace

std::string to_string(Kind kind) {
  switch (kind) {
    case Kind::script: return "script";
    case Kind::sequential: return "sequential";
    case Kind::whole: return "whole";
  }
  return {};
}

std::string bytes_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  const at::Tensor plain = tensor.detach().contiguous();
  std::string bytes(plain.nbytes(), '\0');
  if (!bytes.empty()) std::memcpy(bytes.data(), plain.const_data_ptr(), bytes.size());
  return c10::str(plain.dtype(), plain.sizes(), bytes);
}

Subject::Subject(Kind kind, const Options& options, const Functions& functions) : kind_(kind) {
  torch::manual_seed(0);
  x = torch::randn({3, 3});
  target = torch::randn({3, 2});
  if (kind == Kind::script) {
    script_ = script_model();
    network_ = std::make_shared<ScriptNetwork>(*script_, "norm");
  } else if (kind == Kind::sequential) {
    const torch::nn::Sequential model(
        {{"a", torch::nn::AnyModule(torch::nn::Linear(3, 4))},
         {"norm", torch::nn::AnyModule(torch::nn::BatchNorm1d(4))},
         {"tanh", torch::nn::AnyModule(torch::nn::Tanh())},
         {"dropout", torch::nn::AnyModule(torch::nn::Dropout(0.3))},
         {"b", torch::nn::AnyModule(torch::nn::Linear(4, 2))}});
    module_ = model.ptr();
    network_ = std::make_shared<ModuleNetwork>(model, "norm");
  } else {
    const Whole model(functions.in_forward);
    module_ = model.ptr();
    network_ = std::make_shared<ModuleNetwork>(model);
  }
  engine_ = std::make_unique<Engine>(network_, options, functions.embed, functions.combine, functions.distance);
  engine_->set_trained(true);
  for (auto& [name, tensor] : tensors()) {
    if (name == "b.bias") tensor.set_requires_grad(false);
    if (name == "a.bias") tensor.mutable_grad() = torch::ones_like(tensor);
  }
  train(false);
  if (script_) {
    script_->setattr("training", true);
    script_->attr("dropout").toModule().setattr("training", true);
  } else {
    module_->named_modules()["dropout"]->train();
    module_->named_modules()["b"]->train();
  }
}

void Subject::train(bool on) const {
  if (module_ != nullptr) module_->train(on);
  if (!script_) return;
  for (auto module : script_->modules()) module.setattr("training", on);
}

std::vector<std::pair<std::string, at::Tensor>> Subject::tensors() const {
  auto all = network_->named_tensors();
  if (engine_ == nullptr || engine_->embedder().is_empty()) return all;
  for (const auto& parameter : engine_->embedder()->named_parameters()) {
    all.emplace_back("embedder." + parameter.key(), parameter.value());
  }
  return all;
}

std::vector<bool> Subject::flags() const {
  std::vector<bool> flags;
  if (module_ != nullptr) {
    for (const auto& module : module_->modules()) flags.push_back(module->is_training());
  } else {
    for (const auto& module : script_->modules()) flags.push_back(module.attr("training").toBool());
  }
  return flags;
}

Snapshot::Snapshot(const Subject& subject) : random_state_(bytes_of(at::detail::getDefaultCPUGenerator().get_state())) {
  for (const auto& [name, tensor] : subject.tensors()) {
    tensors_.push_back(
        {.name = name,
         .values = bytes_of(tensor),
         .gradient = bytes_of(tensor.grad()),
         .address = tensor.unsafeGetTensorImpl(),
         .memory = tensor.const_data_ptr(),
         .is_buffer = name.find("running") != std::string::npos || name.find("batches") != std::string::npos,
         .requires_grad = tensor.requires_grad(),
         .is_leaf = tensor.is_leaf()});
  }
  const auto add = [&](const char* name, const auto& fact) { facts_.emplace_back(name, c10::str(fact)); };
  add("flags of modules", subject.flags());
  const Engine& engine = *subject.engine_;
  add("is_trained", engine.is_trained());
  add("threshold", engine.options.threshold.value_or(-1));
  add("drift", engine.drift().distance);
  add("prediction_layout", engine.prediction_layout().batch_dim);
  add("use of the model", subject.network_->is_in_use_here());
  add("gradient mode", at::GradMode::is_enabled());
  add("inference mode", c10::InferenceMode::is_enabled());
  add("autocast", at::autocast::is_autocast_enabled(at::kCPU));
  add("layers of vmap", at::functorch::getDynamicLayerStack().size());
  add("callbacks", at::hasThreadLocalCallbacks());
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  add("included dispatch keys", keys.included_.raw_repr());
  add("excluded dispatch keys", keys.excluded_.raw_repr());
  std::vector<std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(subject.folder.path)) files.push_back(file.path());
  add("files", files);
}

std::string Snapshot::difference_to(const Snapshot& after, const MayChange& may_change) const {
  std::string found;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Held &a = tensors_[i], &b = after.tensors_[i];
    if (a.values != b.values && !(a.is_buffer && may_change.buffers)) found += "values of " + a.name + "; ";
    if (a.gradient != b.gradient && !may_change.gradients) found += "gradient of " + a.name + "; ";
    if (a.address != b.address || a.memory != b.memory) found += "memory of " + a.name + "; ";
    if (a.requires_grad != b.requires_grad || a.is_leaf != b.is_leaf) found += "requires_grad of " + a.name + "; ";
  }
  for (std::size_t i = 0; i < facts_.size(); ++i) {
    const bool may_be_other = may_change.callbacks && facts_[i].first == "callbacks";
    if (facts_[i] != after.facts_[i] && !may_be_other) {
      found += facts_[i].first + " (" + facts_[i].second + ", now " + after.facts_[i].second + "); ";
    }
  }
  if (random_state_ != after.random_state_ && !may_change.random_state) found += "random state; ";
  return found;
}

bool Snapshot::has_values_of(const Snapshot& other) const {
  return std::equal(
      tensors_.begin(), tensors_.end(), other.tensors_.begin(), other.tensors_.end(),
      [](const Held& a, const Held& b) { return a.values == b.values; });
}

}  // namespace it3::test
