#include <it3/module_network.h>

#include <algorithm>
#include <unordered_set>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/nn/modules/embedding.h>

#include <it3/backend/layout.h>
#include <it3/backend/swapped_weights.h>
#include <it3/backend/swapped_working_copy.h>

#include "support/nearest_name.h"
#include "support/random_state_guard.h"
#include "support/write_count.h"
#include "torch_nn/module_origin.h"

namespace it3 {

/// Injects at a point while it lives. One within another, as of a model that an embedder calls, gives way afterwards.
class InjectionScope {
 public:
  InjectionScope(InjectionPointImpl& point, const Inject* inject)
      : point_(point), outer_(point.inject_), was_called_(point.called_) {
    point_.inject_ = inject;
    point_.called_ = false;
  }
  ~InjectionScope() {
    point_.inject_ = outer_;
    point_.called_ = was_called_;
  }
  InjectionScope(const InjectionScope&) = delete;
  InjectionScope& operator=(const InjectionScope&) = delete;

  bool was_called() const { return point_.called_; }

  /// What becomes of the features at a point.
  static at::Tensor pass(InjectionPointImpl& point, const at::Tensor& features) {
    point.called_ = true;
    if (point.inject_ == nullptr) return features;
    const Inject& inject = *point.inject_;
    const InjectionScope plain(point, nullptr);
    return inject(features);
  }

 private:
  InjectionPointImpl& point_;
  const Inject* outer_;
  bool was_called_;
};

void InjectionPointImpl::reset() {
  inject_ = nullptr;
  called_ = false;
}

void InjectionPointImpl::pretty_print(std::ostream& stream) const { stream << "it3::InjectionPoint()"; }

at::Tensor InjectionPointImpl::forward(const at::Tensor& features) { return InjectionScope::pass(*this, features); }

namespace {

using Layers = std::vector<torch::nn::AnyModule>;

at::Tensor run(Layers& layers, at::Tensor x) {
  for (auto& layer : layers) x = layer.forward<at::Tensor>(std::move(x));
  return x;
}

std::vector<at::Tensor> parameters_and_buffers(const torch::nn::Module& module) {
  std::vector<at::Tensor> all = module.parameters();
  for (const auto& buffer : module.buffers()) all.push_back(buffer);
  return all;
}

std::vector<const void*> addresses_of_modules(const torch::nn::Module& module) {
  std::vector<const void*> addresses = {&module};
  for (const auto& child : module.modules(/*include_self=*/false)) addresses.push_back(child.get());
  return addresses;
}

std::shared_ptr<torch::nn::Module> checked(std::shared_ptr<torch::nn::Module> module) {
  TORCH_CHECK_VALUE(module != nullptr, "the model of an it3::ModuleNetwork is null; give a torch::nn module");
  return module;
}

/// All modules in eval mode while it lives, but those layers of batch normalization that shall use the batch's
/// statistics. Afterwards every flag is as before.
class Modes {
 public:
  Modes(torch::nn::Module& module, const Normalization& normalization) : modules_(module.modules()) {
    std::vector<std::shared_ptr<torch::nn::Module>> by_batch;
    if (normalization.statistics != NormStatistics::running) by_batch = layers_with_statistics(normalization);
    for (const auto& m : modules_) were_training_.push_back(m->is_training());
    for (const auto& m : modules_) {
      if (m->is_training()) m->eval();
    }
    for (const auto& layer : by_batch) layer->train();
  }

  ~Modes() {
    // train() sets a module's children too, among them such as came before it.
    for (int pass = 0; pass < 2; ++pass) {
      for (std::size_t i = 0; i < modules_.size(); ++i) give_back(*modules_[i], were_training_[i]);
    }
  }
  Modes(const Modes&) = delete;
  Modes& operator=(const Modes&) = delete;

 private:
  std::vector<std::shared_ptr<torch::nn::Module>> layers_with_statistics(const Normalization& normalization) const {
    TORCH_CHECK_VALUE(
        normalization.statistics != NormStatistics::blend,
        "norm_statistics='blend' is not supported for torch::nn models; use 'batch', or a ScriptNetwork");
    std::vector<std::shared_ptr<torch::nn::Module>> layers;
    for (const auto& child : modules_) {
      const bool is_batch_norm = child->name().find("BatchNorm") != std::string::npos;
      if (is_batch_norm && child->named_buffers(/*recurse=*/false).contains("running_mean")) layers.push_back(child);
    }
    TORCH_CHECK_VALUE(
        !layers.empty(),
        "norm_statistics is 'batch', but the model has no batch normalization with running statistics; use 'running'");
    return layers;
  }

  /// A train() of the user's own may throw.
  static void give_back(torch::nn::Module& module, bool was_training) noexcept {
    try {
      if (module.is_training() != was_training) module.train(was_training);
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): a destructor calls it
    }
  }

  std::vector<std::shared_ptr<torch::nn::Module>> modules_;
  std::vector<bool> were_training_;
};

/// Tells whether tensors that are not swapped are written to.
class Watch {
 public:
  Watch(
      const std::vector<at::Tensor>& all,
      const std::vector<NamedParameter>& adapted,
      const std::vector<at::Tensor>& writable) {
    std::unordered_set<at::TensorImpl*> swapped;
    for (const auto& parameter : adapted) swapped.insert(parameter.tensor.unsafeGetTensorImpl());
    for (const auto& tensor : writable) swapped.insert(tensor.unsafeGetTensorImpl());
    for (const auto& tensor : all) {
      if (!detail::counts_writes(tensor) || swapped.contains(tensor.unsafeGetTensorImpl())) continue;
      watched_.emplace_back(tensor, tensor._version());
    }
  }

  /// The first one that was written to; undefined if none was.
  at::Tensor written() const {
    for (const auto& [tensor, version] : watched_) {
      if (tensor._version() != version) return tensor;
    }
    return {};
  }

 private:
  std::vector<std::pair<at::Tensor, std::int64_t>> watched_;
};

}  // namespace

/// A network's passes with swapped weights and buffers.
class ModuleWorkingCopy : public SwappedWorkingCopy {
 public:
  ModuleWorkingCopy(
      ModuleNetwork& network,
      torch::nn::Module& module,
      const std::vector<NamedParameter>& adapted,
      const Normalization& normalization,
      const std::vector<at::Tensor>& parameters,
      const std::vector<at::Tensor>& writable,
      ModelLock::Turn turn)
      : SwappedWorkingCopy(adapted, parameters, writable, std::move(turn)),
        network_(network),
        modes_(module, normalization),
        has_fixed_head_(network.has_fixed_head(adapted)),
        watch_(parameters, adapted, writable) {}

  ~ModuleWorkingCopy() override {
    if (!has_run_ || network_.written_) return;
    try {
      network_.learn(written());
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the next one learns it
    }
  }
  ModuleWorkingCopy(const ModuleWorkingCopy&) = delete;
  ModuleWorkingCopy& operator=(const ModuleWorkingCopy&) = delete;

  bool has_fixed_head() const override { return has_fixed_head_; }

  FirstPass predict(const Inputs& inputs, const Inject* inject) override {
    FirstPass first = network_.predict(inputs, inject);
    has_run_ = true;
    check();
    return first;
  }
  FirstPass prepare(const Inputs& inputs) override {
    FirstPass first = network_.prepare(inputs);
    check();
    return first;
  }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    at::Tensor prediction = network_.resume_(inputs, first, inject);  // buffers are the copy's own already
    has_run_ = true;
    check();
    return prediction;
  }

 private:
  void check() const {
    const at::Tensor written = watch_.written();
    if (!written.defined()) return;
    if (network_.written_) network_.written_->insert(written.unsafeGetTensorImpl());
    TORCH_CHECK(
        false, "the model's forward() has written to a parameter of shape ", written.sizes(),
        ", which it did not do in the first call, so the parameter now has other values than before: load the model's "
        "weights again. Later calls protect this parameter");
  }

  ModuleNetwork& network_;
  Modes modes_;
  bool has_fixed_head_;
  Watch watch_;
  bool has_run_ = false;  // a whole pass
};

ModuleNetwork::ModuleNetwork(std::shared_ptr<torch::nn::Module> module, const Forward& forward)
    : module_(checked(std::move(module))), lock_(parameters_and_buffers(*module_), addresses_of_modules(*module_)) {
  TORCH_CHECK_VALUE(
      forward != nullptr, "the forward function of an it3::ModuleNetwork is null; give one that calls the model");
  std::shared_ptr<InjectionPointImpl> point;
  std::size_t points = 0;
  for (const auto& child : module_->modules()) {
    if (auto found = std::dynamic_pointer_cast<InjectionPointImpl>(child)) {
      point = std::move(found);
      ++points;
    }
  }
  TORCH_CHECK_VALUE(
      points == 1, "a network needs exactly one it3::InjectionPoint registered in its module, but ", points,
      " are; put one after the layer to inject at, or name a child of a Sequential");
  point_ = point;
  const auto run = [forward, point](const Inputs& inputs, const Inject* inject) {
    if (inject == nullptr) return forward(inputs);
    const InjectionScope scope(*point, inject);
    at::Tensor prediction = forward(inputs);
    TORCH_CHECK(scope.was_called(), "forward() did not call the model's it3::InjectionPoint");
    return prediction;
  };
  predict_ = [run](const Inputs& inputs, const Inject* inject) { return FirstPass{run(inputs, inject)}; };
  prepare_ = [](const Inputs&) { return FirstPass(); };
  resume_ = [run](const Inputs& inputs, const FirstPass&, const Inject* inject) { return run(inputs, inject); };
}

ModuleNetwork::ModuleNetwork(const torch::nn::Sequential& model, const std::string& layer)
    : module_(checked(model.is_empty() ? nullptr : model.ptr())),
      lock_(parameters_and_buffers(*module_), addresses_of_modules(*module_)) {
  const auto names = model->named_children().keys();
  const auto found = std::find(names.begin(), names.end(), layer);
  TORCH_CHECK_VALUE(
      found != names.end(), "the Sequential has no child '", layer, "'; its children are ", detail::join(names),
      ". Within one of them, put an it3::InjectionPoint into its forward()");
  layer_ = layer;
  const auto end_of_head = model->begin() + (found - names.begin()) + 1;
  const auto head = std::make_shared<Layers>(model->begin(), end_of_head);
  for (const auto& part : *head) head_.push_back(part.ptr());
  const auto tail = std::make_shared<Layers>(end_of_head, model->end());
  const auto run_tail = [tail](const at::Tensor& features, const Inject* inject) {
    // Unless copied, an in-place operation in the tail would change what the next pass starts with.
    return run(*tail, inject == nullptr ? features.clone() : (*inject)(features));
  };
  const auto run_head = [head](const Inputs& inputs) { return run(*head, single_tensor(inputs)); };
  prepare_ = [run_head](const Inputs& inputs) { return FirstPass{{}, {run_head(inputs)}}; };
  predict_ = [this, run_head, run_tail](const Inputs& inputs, const Inject* inject) {
    std::optional<detail::RandomStateGuard> drawn;
    if (is_head_training()) drawn.emplace(module_->parameters());
    const at::Tensor features = run_head(inputs);
    if (drawn && drawn->has_changed()) return FirstPass{run_tail(features, inject), {}};
    return FirstPass{run_tail(features, inject), {features}};
  };
  resume_ = [run_head, run_tail](const Inputs& inputs, const FirstPass& first, const Inject* inject) {
    return run_tail(first.carried.empty() ? run_head(inputs) : first.carried[0].toTensor(), inject);
  };
}

bool ModuleNetwork::is_head_training() const {
  return module_->is_training() ||
         std::any_of(head_.begin(), head_.end(), [](const auto& layer) { return layer->is_training(); });
}

bool ModuleNetwork::has_fixed_head(const std::vector<NamedParameter>& adapted) const {
  const auto adapts = [&](const at::Tensor& t) {
    return std::any_of(adapted.begin(), adapted.end(), [&](const auto& p) { return p.tensor.is_same(t); });
  };
  return !head_.empty() && std::all_of(head_.begin(), head_.end(), [&](const auto& layer) {
    const auto parameters = layer->parameters();
    const auto modules = layer->modules();
    return std::none_of(parameters.begin(), parameters.end(), adapts) &&
           std::none_of(modules.begin(), modules.end(), [](const auto& m) { return m->is_training(); });
  });
}

std::string ModuleNetwork::how() const {
  return is_cut() ? "cut at the layer, a torch::nn::Sequential" : "run whole, with an it3::InjectionPoint";
}

FirstPass ModuleNetwork::predict(const Inputs& inputs, const Inject* inject) {
  const auto turn = take_turn();
  return predict_(inputs, inject);
}

FirstPass ModuleNetwork::prepare(const Inputs& inputs) {
  const auto turn = take_turn();
  return prepare_(inputs);
}

at::Tensor ModuleNetwork::resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) {
  const auto turn = take_turn();
  const SwappedWeights buffers({}, {}, module_->buffers());  // running statistics are the first pass's to update
  return resume_(inputs, first, inject);
}

std::vector<at::Tensor> ModuleNetwork::writable(const std::vector<at::Tensor>& parameters) const {
  std::vector<at::Tensor> writable = module_->buffers();
  for (const auto& parameter : parameters) {
    if (!written_ || written_->contains(parameter.unsafeGetTensorImpl())) writable.push_back(parameter);
  }
  return writable;
}

void ModuleNetwork::learn(const std::vector<at::Tensor>& written) {
  std::unordered_set<at::TensorImpl*> learned;
  for (const auto& tensor : written) learned.insert(tensor.unsafeGetTensorImpl());
  const auto add = [&](const auto* embedding) {
    if (embedding != nullptr && embedding->options.max_norm()) {
      learned.insert(embedding->weight.unsafeGetTensorImpl());
    }
  };
  // Also those that forward() has not come to yet.
  for (const auto& module : module_->modules()) {
    add(dynamic_cast<const torch::nn::EmbeddingImpl*>(module.get()));
    add(dynamic_cast<const torch::nn::EmbeddingBagImpl*>(module.get()));
  }
  written_ = std::move(learned);
}

std::vector<NamedParameter> ModuleNetwork::parameters() const {
  const auto turn = take_turn();
  std::vector<NamedParameter> parameters;
  std::unordered_set<at::TensorImpl*> seen;
  for (const auto& module : module_->named_modules()) {
    const std::string prefix = module.key().empty() ? "" : module.key() + ".";
    for (const auto& parameter : module.value()->named_parameters(/*recurse=*/false)) {
      const at::Tensor& tensor = parameter.value();
      const bool has_gradients = tensor.is_floating_point() || tensor.is_complex();
      if (!has_gradients || !seen.insert(tensor.unsafeGetTensorImpl()).second) continue;
      parameters.push_back({prefix + parameter.key(), tensor, is_normalization(module.value()->name())});
    }
  }
  return parameters;
}

std::vector<std::pair<std::string, at::Tensor>> ModuleNetwork::named_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& parameter : module_->named_parameters()) tensors.emplace_back(parameter.key(), parameter.value());
  for (const auto& buffer : module_->named_buffers()) tensors.emplace_back(buffer.key(), buffer.value());
  return tensors;
}

Origin ModuleNetwork::origin_of_prediction() const {
  return detail::origin_of_chain(point_ == nullptr ? module_->children() : std::vector{module_});
}

Origin ModuleNetwork::origin_of_features() const {
  if (point_ == nullptr) return detail::origin_of_chain(head_);
  Origin origin;  // what is registered before the point
  for (const auto& module : module_->modules(/*include_self=*/false)) {
    if (module == point_) break;
    const LayerKind kind = detail::kind_of(*module);
    if (kind.channel_dim) origin.inside.push_back(kind);
  }
  return origin;
}

std::unique_ptr<WorkingCopy> ModuleNetwork::checkout(
    const std::vector<NamedParameter>& adapted, const Normalization& normalization) {
  auto turn = take_turn();
  const std::vector<at::Tensor> parameters = module_->parameters();
  return std::make_unique<ModuleWorkingCopy>(
      *this, *module_, adapted, normalization, parameters, writable(parameters), std::move(turn));
}

}  // namespace it3
