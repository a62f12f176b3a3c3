#pragma once

#include <functional>
#include <memory>
#include <string>

#include <torch/nn/module.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/pimpl.h>

#include <it3/export.h>
#include <it3/network.h>

namespace it3 {

/// The place in a C++ model at which features are injected. LibTorch has no forward hooks, so a model's author
/// puts one of these after the layer, as a child of a Sequential or in forward(). It passes its input on.
class IT3_API InjectionPointImpl : public torch::nn::Module {
 public:
  at::Tensor forward(const at::Tensor& features);

 private:
  friend class InjectionScope;
  const Inject* inject_ = nullptr;
  bool called_ = false;
};
TORCH_MODULE(InjectionPoint);

/// A torch::nn model, cut at a child of a Sequential or at an InjectionPoint in it.
class IT3_API ModuleNetwork : public Network {
 public:
  using Forward = std::function<at::Tensor(const Inputs&)>;

  /// @param module   the model
  /// @param forward  calls it
  /// Raises c10::ValueError unless exactly one InjectionPoint is registered in the module.
  ModuleNetwork(std::shared_ptr<torch::nn::Module> module, const Forward& forward);

  /// A Sequential, injected into behind one of its children, by name. What comes before runs once for both passes.
  /// Every child takes one tensor and returns one. The children are those of now: build another network after adding
  /// some.
  ///
  /// Raises c10::ValueError, with the names there are, if there is no such child.
  ModuleNetwork(torch::nn::Sequential model, const std::string& layer);

  /// A model with an InjectionPoint whose forward takes one tensor and returns one.
  template <typename Impl>
  explicit ModuleNetwork(torch::nn::ModuleHolder<Impl> module)
      : ModuleNetwork(module.ptr(), [module](const Inputs& inputs) mutable {
          return module->forward(inputs.args.at(0).toTensor());
        }) {}

  FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) override;
  FirstPass prepare(const Inputs& inputs) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override;
  std::vector<NamedParameter> parameters() const override;
  std::string layer_name() const override { return layer_; }
  Origin origin_of_prediction() const override;
  Origin origin_of_features() const override;
  /// LibTorch's layers of batch normalisation cannot be made to blend: that raises c10::ValueError. "batch" puts them
  /// in train mode for the passes, in which they refuse inputs of one value a channel.
  std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalisation& normalisation = {}) override;

 private:
  friend class ModuleWorkingCopy;
  /// Whether the head gives the same in each pass: none of it adapts, and all of it is in eval mode.
  bool has_fixed_head(const std::vector<NamedParameter>& adapted) const;

  std::shared_ptr<torch::nn::Module> module_;
  std::string layer_;
  std::vector<std::shared_ptr<torch::nn::Module>> head_;  // of a Sequential
  std::shared_ptr<InjectionPointImpl> point_;             // of another model
  // The passes, by either kind of cut.
  std::function<FirstPass(const Inputs&, const Inject*)> predict_;
  std::function<FirstPass(const Inputs&)> prepare_;
  std::function<at::Tensor(const Inputs&, const FirstPass&, const Inject*)> resume_;
};

}  // namespace it3
