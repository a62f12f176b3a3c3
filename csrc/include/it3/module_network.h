#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <torch/nn/cloneable.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/pimpl.h>

#include <it3/backend/export.h>
#include <it3/backend/model_lock.h>
#include <it3/network.h>

namespace it3 {

/// The place in a C++ model at which features are injected. LibTorch has no forward hooks, so a model's author
/// puts one of these after the layer, as a child of a Sequential or in forward(). It passes its input on. Where the
/// model is called during an injection, by the embedder for example, nothing is injected in that inner call.
class IT3_API InjectionPointImpl : public torch::nn::Cloneable<InjectionPointImpl> {
 public:
  /// Injects nothing any more; clone() needs it.
  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  at::Tensor forward(const at::Tensor& features);

 private:
  friend class InjectionScope;
  const Inject* inject_ = nullptr;
  bool called_ = false;
};
TORCH_MODULE(InjectionPoint);

namespace detail {

/// A module that is called with one tensor and returns one.
template <typename Impl>
concept CalledWithATensor = std::is_base_of_v<torch::nn::Module, Impl> && requires(Impl& module, at::Tensor x) {
  { module.forward(x) } -> std::convertible_to<at::Tensor>;
};

}  // namespace detail

/// A torch::nn model, cut at a child of a Sequential or at an InjectionPoint in it.
///
/// The passes of a working copy run the model itself, in eval mode, on weights and buffers that are swapped in; all is
/// afterwards as before. Threads may share a network, and networks may share a model or a part of one: they take turns,
/// from checkout() to the end of the working copy, and in passes for training. See Network for what is not covered.
/// The model's modules and parameters are read when the network is made: make another one after adding some.
class IT3_API ModuleNetwork : public Network {
 public:
  using Forward = std::function<at::Tensor(const Inputs&)>;

  /// @param module   the model
  /// @param forward  calls it
  /// Raises c10::ValueError if one of them is null, and unless exactly one InjectionPoint is registered in the module.
  ModuleNetwork(std::shared_ptr<torch::nn::Module> module, const Forward& forward);

  /// A Sequential, injected into behind one of its children, by name. What comes before runs once for both passes,
  /// unless it draws random numbers in training, and once for all where none of it adapts: it must not depend on chance
  /// in eval mode. Every child takes one tensor and returns one. The children are those of now: build another network
  /// after adding some.
  ///
  /// Raises c10::ValueError, with the names there are, if there is no such child. A pass raises it for other inputs
  /// than one tensor.
  ModuleNetwork(const torch::nn::Sequential& model, const std::string& layer);

  /// A model with an InjectionPoint whose forward takes one tensor and returns one, by its holder or its pointer. A
  /// pass raises c10::ValueError for other inputs than one tensor.
  template <detail::CalledWithATensor Impl>
  explicit ModuleNetwork(std::shared_ptr<Impl> module)
      : ModuleNetwork(std::shared_ptr<torch::nn::Module>(module), [module](const Inputs& inputs) {
          return module->forward(single_tensor(inputs));
        }) {}
  template <detail::CalledWithATensor Impl>
  explicit ModuleNetwork(const torch::nn::ModuleHolder<Impl>& module)
      : ModuleNetwork(module.is_empty() ? std::shared_ptr<Impl>() : module.ptr()) {}

  bool swaps_weights() const override { return true; }
  ModelLock::Turn take_turn() const override { return lock_.wait(UpgradeMutex::Use::alone); }
  FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) override;
  FirstPass prepare(const Inputs& inputs) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override;
  std::vector<NamedParameter> parameters() const override;
  std::vector<std::pair<std::string, at::Tensor>> named_tensors() const override;
  std::string layer_name() const override { return layer_; }
  std::string how() const override;
  bool is_cut() const override { return point_ == nullptr; }
  Origin origin_of_prediction() const override;
  Origin origin_of_features() const override;
  /// LibTorch's layers of batch normalization cannot be made to blend: that raises c10::ValueError. "batch" puts them
  /// in train mode for the passes, in which they refuse inputs of one value a channel. Raises c10::ValueError too where
  /// SwappedWeights does.
  std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalization& normalization = {}) override;

 private:
  friend class ModuleWorkingCopy;
  /// Whether the head gives the same in each pass: none of it adapts, and all of it is in eval mode.
  bool has_fixed_head(const std::vector<NamedParameter>& adapted) const;
  bool is_head_training() const;
  /// The buffers, and those of the parameters that forward() may write to, as an embedding with a greatest norm does.
  std::vector<at::Tensor> writable(const std::vector<at::Tensor>& parameters) const;
  /// To be told after the first passes which tensors they wrote to.
  void learn(const std::vector<at::Tensor>& written);

  std::shared_ptr<torch::nn::Module> module_;
  ModelLock lock_;
  std::optional<std::unordered_set<at::TensorImpl*>> written_;  // parameters; nothing before the first passes
  std::vector<std::shared_ptr<torch::nn::Module>> head_;        // of a Sequential
  std::string layer_;
  std::shared_ptr<InjectionPointImpl> point_;  // of another model
  // The passes, by either kind of cut.
  std::function<FirstPass(const Inputs&, const Inject*)> predict_;
  std::function<FirstPass(const Inputs&)> prepare_;
  std::function<at::Tensor(const Inputs&, const FirstPass&, const Inject*)> resume_;
};

}  // namespace it3
