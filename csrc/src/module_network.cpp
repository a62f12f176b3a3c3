#include <it3/module_network.h>

#include <algorithm>
#include <unordered_set>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/nn/modules/rnn.h>

#include <it3/layout.h>
#include <it3/lent_weights.h>
#include <it3/lent_working_copy.h>

#include "nearest_name.h"

namespace it3 {

/// Injects at a point while it lives.
class InjectionScope {
 public:
  InjectionScope(InjectionPointImpl& point, const Inject& inject) : point_(point) {
    point_.inject_ = &inject;
    point_.called_ = false;
  }
  ~InjectionScope() { point_.inject_ = nullptr; }
  InjectionScope(const InjectionScope&) = delete;
  InjectionScope& operator=(const InjectionScope&) = delete;

  bool was_called() const { return point_.called_; }

 private:
  InjectionPointImpl& point_;
};

at::Tensor InjectionPointImpl::forward(const at::Tensor& features) {
  called_ = true;
  return inject_ == nullptr ? features : (*inject_)(features);
}

namespace {

using Layers = std::vector<torch::nn::AnyModule>;

at::Tensor run(Layers& layers, at::Tensor x) {
  for (auto& layer : layers) x = layer.forward<at::Tensor>(std::move(x));
  return x;
}

/// The layers of batch normalisation that use stored statistics, in train mode while it lives.
class BatchStatisticsScope {
 public:
  BatchStatisticsScope(torch::nn::Module& module, const Normalisation& normalisation) {
    if (normalisation.statistics == NormStatistics::running) return;
    TORCH_CHECK_VALUE(
        normalisation.statistics != NormStatistics::blend,
        "norm_statistics='blend' cannot be had of torch::nn's layers; use 'batch', or a ScriptNetwork");
    bool has_any = false;
    for (const auto& child : module.modules()) {
      const bool is_batch_norm = child->name().find("BatchNorm") != std::string::npos;
      if (!is_batch_norm || !child->named_buffers(/*recurse=*/false).contains("running_mean")) continue;
      has_any = true;
      if (child->is_training()) continue;
      child->train();
      switched_.push_back(child);
    }
    TORCH_CHECK_VALUE(
        has_any, "norm_statistics is 'batch', but the model has no batch normalisation with running statistics");
  }
  ~BatchStatisticsScope() {
    for (const auto& layer : switched_) layer->eval();
  }
  BatchStatisticsScope(const BatchStatisticsScope&) = delete;
  BatchStatisticsScope& operator=(const BatchStatisticsScope&) = delete;

 private:
  std::vector<std::shared_ptr<torch::nn::Module>> switched_;
};

}  // namespace

/// A network's passes with lent weights and buffers.
class ModuleWorkingCopy : public LentWorkingCopy {
 public:
  ModuleWorkingCopy(
      ModuleNetwork& network,
      torch::nn::Module& module,
      const std::vector<NamedParameter>& adapted,
      const Normalisation& normalisation)
      : LentWorkingCopy(tensors_of(adapted), module.parameters()),
        network_(network),
        statistics_(module, normalisation),
        has_fixed_head_(network.has_fixed_head(adapted)),
        buffers_(module.buffers()) {}

  bool has_fixed_head() const override { return has_fixed_head_; }

  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return network_.predict(inputs, inject); }
  FirstPass prepare(const Inputs& inputs) override { return network_.prepare(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return network_.resume(inputs, first, inject);
  }

 private:
  ModuleNetwork& network_;
  BatchStatisticsScope statistics_;
  bool has_fixed_head_;
  LentWeights buffers_;
};

ModuleNetwork::ModuleNetwork(std::shared_ptr<torch::nn::Module> module, const Forward& forward)
    : module_(std::move(module)) {
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
    const InjectionScope scope(*point, *inject);
    at::Tensor prediction = forward(inputs);
    TORCH_CHECK(scope.was_called(), "forward() did not call the model's it3::InjectionPoint");
    return prediction;
  };
  predict_ = [run](const Inputs& inputs, const Inject* inject) { return FirstPass{run(inputs, inject)}; };
  prepare_ = [](const Inputs&) { return FirstPass(); };
  resume_ = [run](const Inputs& inputs, const FirstPass&, const Inject* inject) { return run(inputs, inject); };
}

ModuleNetwork::ModuleNetwork(torch::nn::Sequential model, const std::string& layer) : module_(model.ptr()) {
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
  prepare_ = [head](const Inputs& inputs) { return FirstPass{{}, {run(*head, inputs.args.at(0).toTensor())}}; };
  predict_ = [head, run_tail](const Inputs& inputs, const Inject* inject) {
    const at::Tensor features = run(*head, inputs.args.at(0).toTensor());
    return FirstPass{run_tail(features, inject), {features}};
  };
  resume_ = [run_tail](const Inputs&, const FirstPass& first, const Inject* inject) {
    return run_tail(first.carried[0].toTensor(), inject);
  };
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

FirstPass ModuleNetwork::predict(const Inputs& inputs, const Inject* inject) { return predict_(inputs, inject); }

FirstPass ModuleNetwork::prepare(const Inputs& inputs) { return prepare_(inputs); }

at::Tensor ModuleNetwork::resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) {
  const LentWeights buffers(module_->buffers());  // running statistics are the first pass's to update
  return resume_(inputs, first, inject);
}

std::vector<NamedParameter> ModuleNetwork::parameters() const {
  std::vector<NamedParameter> parameters;
  std::unordered_set<at::TensorImpl*> seen;
  for (const auto& module : module_->named_modules()) {
    const std::string prefix = module.key().empty() ? "" : module.key() + ".";
    for (const auto& parameter : module.value()->named_parameters(/*recurse=*/false)) {
      const at::Tensor& tensor = parameter.value();
      const bool has_gradients = tensor.is_floating_point() || tensor.is_complex();
      if (!has_gradients || !seen.insert(tensor.unsafeGetTensorImpl()).second) continue;
      parameters.push_back({prefix + parameter.key(), tensor, is_normalisation(module.value()->name())});
    }
  }
  return parameters;
}

namespace {

/// What a recurrent layer says of where its samples are. Attention in C++ has them in dimension 1.
std::optional<bool> batch_first(const torch::nn::Module& module) {
  if (const auto* lstm = module.as<torch::nn::LSTMImpl>()) return lstm->options.batch_first();
  if (const auto* gru = module.as<torch::nn::GRUImpl>()) return gru->options.batch_first();
  if (const auto* rnn = module.as<torch::nn::RNNImpl>()) return rnn->options.batch_first();
  if (module.name().find("Cell") != std::string::npos) return std::nullopt;
  return false;
}

LayerKind kind_of(const torch::nn::Module& module) {
  const auto tensor = [&](const std::string& name) {
    const auto parameters = module.named_parameters(/*recurse=*/false);
    if (const auto* parameter = parameters.find(name)) return *parameter;
    const auto buffers = module.named_buffers(/*recurse=*/false);
    const auto* buffer = buffers.find(name);
    return buffer ? *buffer : at::Tensor();
  };
  return kind_of_layer(module.name(), tensor, batch_first(module));
}

/// The kinds of modules in their order, what is in one before itself.
void append_kinds(const torch::nn::Module& module, std::vector<LayerKind>& kinds) {
  for (const auto& child : module.children()) append_kinds(*child, kinds);
  const LayerKind kind = kind_of(module);
  if (kind.channel_dim) kinds.push_back(kind);
}

/// The last module in a chain, in the Sequentials in it too, that does more than to work on each value; null if it is
/// not known.
std::shared_ptr<torch::nn::Module> last_of(const std::vector<std::shared_ptr<torch::nn::Module>>& chain) {
  for (auto module = chain.rbegin(); module != chain.rend(); ++module) {
    if (is_elementwise((*module)->name())) continue;
    return (*module)->as<torch::nn::SequentialImpl>() != nullptr ? last_of((*module)->children()) : *module;
  }
  return nullptr;
}

Origin origin_of_chain(const std::vector<std::shared_ptr<torch::nn::Module>>& chain) {
  Origin origin;
  for (const auto& module : chain) append_kinds(*module, origin.inside);
  const auto last = last_of(chain);
  origin.is_direct = last != nullptr && kind_of(*last).channel_dim.has_value();
  return origin;
}

}  // namespace

Origin ModuleNetwork::origin_of_prediction() const {
  return origin_of_chain(point_ == nullptr ? module_->children() : std::vector{module_});
}

Origin ModuleNetwork::origin_of_features() const {
  if (point_ == nullptr) return origin_of_chain(head_);
  Origin origin;  // what is registered before the point
  for (const auto& module : module_->modules(/*include_self=*/false)) {
    if (module == point_) break;
    const LayerKind kind = kind_of(*module);
    if (kind.channel_dim) origin.inside.push_back(kind);
  }
  return origin;
}

std::unique_ptr<WorkingCopy> ModuleNetwork::checkout(
    const std::vector<NamedParameter>& adapted, const Normalisation& normalisation) {
  return std::make_unique<ModuleWorkingCopy>(*this, *module_, adapted, normalisation);
}

}  // namespace it3
