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

/// The place in a C++ model where y0 is injected. LibTorch has no forward hooks, so the author of the model calls one
/// of these in forward(), behind the layer to inject at. By itself it returns its input. If the model is called during
/// an injection, by the embedder for example, nothing is injected in that inner call.
///
/// @code{.cpp}
/// struct NetImpl : torch::nn::Module {
///   torch::nn::Linear encoder{register_module("encoder", torch::nn::Linear(13, 64))};
///   it3::InjectionPoint point{register_module("point", it3::InjectionPoint())};
///   torch::nn::Linear head{register_module("head", torch::nn::Linear(64, 3))};
///   at::Tensor forward(const at::Tensor& input) { return head(torch::relu(point(encoder(input)))); }
/// };
/// it3::Engine engine(std::make_shared<NetImpl>(), {.lr = 1e-4});
/// it3::Losses losses = engine.losses(x, y);
/// @endcode
class IT3_API InjectionPointImpl : public torch::nn::Cloneable<InjectionPointImpl> {
 public:
  /// Ends any injection, which clone() needs.
  void reset() override;
  /// Writes the name of the class.
  void pretty_print(std::ostream& stream) const override;

  /// Its input, or the result of the injection during one.
  at::Tensor forward(const at::Tensor& features);

 private:
  friend class InjectionScope;
  const Inject* inject_ = nullptr;
  bool called_ = false;
};
/// A shared pointer to InjectionPointImpl, of the kind that torch::nn has for its modules.
TORCH_MODULE(InjectionPoint);

namespace detail {

/// A module whose forward() takes one tensor and returns one.
template <typename Impl>
concept CalledWithATensor = std::is_base_of_v<torch::nn::Module, Impl> && requires(Impl& module, at::Tensor x) {
  { module.forward(x) } -> std::convertible_to<at::Tensor>;
};

}  // namespace detail

/// A torch::nn model as a network: a Sequential that is cut behind one of its children, or any model with an
/// InjectionPoint.
///
/// A working copy runs the model itself, in eval mode, with other weights and buffers swapped in. Afterwards everything
/// is as before. Several threads may share a network, and several networks may share a model or a part of one: they
/// take turns, each from checkout() to the end of the working copy, and in passes for training. See Network for what is
/// not covered. The network reads the model's modules and parameters when it is made: after adding some, make another
/// one.
///
/// @code{.cpp}
/// auto network = std::make_shared<it3::ModuleNetwork>(model, "encoder");  // a Sequential, cut behind "encoder"
/// it3::Engine engine(network, {.lr = 1e-4});
/// at::Tensor y0 = network->predict(it3::Inputs(x)).prediction;  // the model's own prediction, (8, 3)
/// for (const it3::NamedParameter& parameter : network->parameters()) std::cout << parameter.name << '\n';
/// @endcode
class IT3_API ModuleNetwork : public Network {
 public:
  /// Calls the model with the inputs and returns its prediction.
  using Forward = std::function<at::Tensor(const Inputs&)>;

  /// A model with an InjectionPoint, called in any way: with several inputs, for example.
  ///
  /// @param module  the model, with exactly one InjectionPoint registered in it
  /// @param forward  calls the model
  /// @throws c10::ValueError  if one of them is null, or there is not exactly one InjectionPoint. A pass throws
  ///                          c10::Error if forward() does not call it
  ///
  /// @code{.cpp}
  /// struct TwoInputs : torch::nn::Module {
  ///   torch::nn::Linear encoder{register_module("encoder", torch::nn::Linear(13, 3))};
  ///   it3::InjectionPoint point{register_module("point", it3::InjectionPoint())};
  /// };
  /// auto net = std::make_shared<TwoInputs>();
  /// auto network = std::make_shared<it3::ModuleNetwork>(net, [net](const it3::Inputs& inputs) {
  ///   return net->point(net->encoder(inputs.args[0].toTensor())) + inputs.args[1].toTensor();
  /// });
  /// at::Tensor prediction = network->predict({x, y}).prediction;
  /// @endcode
  ModuleNetwork(std::shared_ptr<torch::nn::Module> module, const Forward& forward);

  /// A Sequential that is cut behind one of its children. Every child has to take one tensor and return one.
  ///
  /// The children up to the cut run once for both passes, unless they draw random numbers in training. If none of them
  /// adapts, they run once for all steps: they must not depend on chance in eval mode.
  ///
  /// @param model  the Sequential
  /// @param layer  the name of the child
  /// @throws c10::ValueError  naming the children, if there is none of this name. A pass throws it for inputs other
  ///                          than one tensor
  ModuleNetwork(const torch::nn::Sequential& model, const std::string& layer);

  /// A model with an InjectionPoint whose forward() takes one tensor and returns one, given by its holder or its
  /// pointer. A pass throws c10::ValueError for inputs other than one tensor.
  template <detail::CalledWithATensor Impl>
  explicit ModuleNetwork(std::shared_ptr<Impl> module)
      : ModuleNetwork(std::shared_ptr<torch::nn::Module>(module), [module](const Inputs& inputs) {
          return module->forward(single_tensor(inputs));
        }) {}
  /// The same for a holder.
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
  /// NormStatistics::batch puts the layers of batch normalization into train mode for the passes, where they refuse
  /// inputs with one value for each channel.
  ///
  /// @throws c10::ValueError  for NormStatistics::blend, which LibTorch's layers of batch normalization cannot do; and
  ///                          where SwappedWeights does
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
