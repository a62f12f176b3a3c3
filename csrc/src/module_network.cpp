#include <it3/module_network.h>

#include <unordered_set>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/layout.h>
#include <it3/lent_weights.h>

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

  FirstPass predict(const Inputs& inputs) override { return network_.predict(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass&, const Inject& inject) override {
    return network_.run_injected(inputs, inject);
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

ModuleNetwork::ModuleNetwork(std::shared_ptr<torch::nn::Module> module, Forward forward)
    : module_(std::move(module)), forward_(std::move(forward)) {
  std::size_t points = 0;
  for (const auto& child : module_->modules()) {
    if (auto point = std::dynamic_pointer_cast<InjectionPointImpl>(child)) {
      point_ = std::move(point);
      ++points;
    }
  }
  TORCH_CHECK_VALUE(
      points == 1, "a network needs exactly one it3::InjectionPoint registered in its module, but ", points,
      " are; put one after the layer to inject at");
}

FirstPass ModuleNetwork::predict(const Inputs& inputs) { return {forward_(inputs)}; }

at::Tensor ModuleNetwork::run_injected(const Inputs& inputs, const Inject& inject) {
  const InjectionScope scope(*point_, inject);
  at::Tensor second = forward_(inputs);
  TORCH_CHECK(scope.was_called(), "forward() did not call the model's it3::InjectionPoint");
  return second;
}

at::Tensor ModuleNetwork::resume(const Inputs& inputs, const FirstPass&, const Inject& inject) {
  const LentWeights buffers(module_->buffers());  // running statistics are the first pass's to update
  return run_injected(inputs, inject);
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
