#include <it3/module_network.h>

#include <algorithm>
#include <unordered_set>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/layout.h>
#include <it3/lent_weights.h>

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

/// A ModuleNetwork's passes with lent weights and buffers.
class ModuleWorkingCopy : public WorkingCopy {
 public:
  ModuleWorkingCopy(ModuleNetwork& network, const std::vector<NamedParameter>& adapted)
      : network_(network),
        buffers_(network.module_->buffers()),
        weights_(tensors_of(adapted), network.module_->parameters()) {}

  FirstPass predict(const Inputs& inputs) override { return network_.predict_(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject& inject) override {
    return network_.resume_(inputs, first, inject);
  }
  const std::vector<at::Tensor>& leaves() const override { return weights_.leaves(); }
  const std::vector<at::Tensor>& values() const override { return weights_.values(); }
  void commit() override { weights_.commit(); }

 private:
  ModuleNetwork& network_;
  LentWeights buffers_;
  LentWeights weights_;
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

}  // namespace

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
  predict_ = [forward](const Inputs& inputs) { return FirstPass{forward(inputs)}; };
  resume_ = [forward, point](const Inputs& inputs, const FirstPass&, const Inject& inject) {
    const InjectionScope scope(*point, inject);
    at::Tensor second = forward(inputs);
    TORCH_CHECK(scope.was_called(), "forward() did not call the model's it3::InjectionPoint");
    return second;
  };
}

ModuleNetwork::ModuleNetwork(torch::nn::Sequential model, const std::string& layer) : module_(model.ptr()) {
  const auto names = model->named_children().keys();
  const auto found = std::find(names.begin(), names.end(), layer);
  TORCH_CHECK_VALUE(
      found != names.end(), "the Sequential has no child '", layer, "'; its children are ", detail::join(names),
      ". Within one of them, put an it3::InjectionPoint into its forward()");
  const auto end_of_head = model->begin() + (found - names.begin()) + 1;
  const auto head = std::make_shared<Layers>(model->begin(), end_of_head);
  const auto tail = std::make_shared<Layers>(end_of_head, model->end());
  predict_ = [head, tail](const Inputs& inputs) {
    const at::Tensor features = run(*head, inputs.args.at(0).toTensor());
    // Unless copied, an in-place operation in the tail would change what the second pass starts with.
    return FirstPass{run(*tail, features.clone()), {features}};
  };
  resume_ = [tail](const Inputs&, const FirstPass& first, const Inject& inject) {
    return run(*tail, inject(first.carried[0].toTensor()));
  };
}

FirstPass ModuleNetwork::predict(const Inputs& inputs) { return predict_(inputs); }

at::Tensor ModuleNetwork::resume(const Inputs& inputs, const FirstPass& first, const Inject& inject) {
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

std::unique_ptr<WorkingCopy> ModuleNetwork::checkout(const std::vector<NamedParameter>& adapted) {
  return std::make_unique<ModuleWorkingCopy>(*this, adapted);
}

}  // namespace it3
