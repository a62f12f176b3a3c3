#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>
#include <it3/backend/output_path.h>
#include <it3/network.h>

namespace it3 {

namespace detail {
struct CutPlace;
struct ScriptCut;
struct ScriptSlots;
class SizeConditions;
}  // namespace detail

/// That a module cannot be cut at the layer.
class IT3_API CutRefusal : public c10::ValueError {
 public:
  /// @param message  that names the layer, and says why, and what to do
  /// @param why  the reason by itself
  CutRefusal(const std::string& message, std::string why);
  /// Why, by itself.
  const std::string& why() const { return why_; }

 private:
  std::string why_;
};

/// A TorchScript module, scripted or traced, as a network. It is cut at the layer into a head and a tail, and the head
/// runs once for both passes. The cut takes parameters and buffers as arguments, so that adaptation never writes to the
/// module, and one network can adapt in several threads at the same time. The network's own passes, which training
/// runs, are for one thread at a time.
///
/// Working copies run in eval mode, as if every `training` flag were false; the network's own passes run with the flags
/// as they are. The module is cut once for each way to normalize, and again after an attribute that forward() reads has
/// changed. The first call with a new kind of inputs (their number, dtypes or numbers of dimensions) compares
/// predictions and gradients of the cut with those of the module's own forward(), unless forward() draws random
/// numbers.
///
/// @code{.cpp}
/// torch::jit::Module scripted = torch::jit::load("model.pt");  // written by Python's torch.jit.script(model).save()
/// auto network = std::make_shared<it3::ScriptNetwork>(scripted, "encoder");
/// it3::Engine engine(network, {.lr = 1e-4});
/// it3::Losses losses = engine.losses(x, y);
/// at::Tensor prediction = engine.adapt(x).prediction;
/// @endcode
class IT3_API ScriptNetwork : public Network {
 public:
  /// @param module  the module, which is not copied
  /// @param layer  the dotted name of a submodule; "" for the whole module
  /// @param output  which tensor of the module's output is the prediction. Unset: its only tensor
  /// @param layer_output  which tensor of the layer's output is injected into. Unset: the first one, in tuples and
  ///                      lists. In a dict, it has to be given
  /// @throws CutRefusal  here or at the first call in another mode, if the module cannot be cut there: the layer is
  /// never
  ///     called, called several times, or called inside a branch or loop that depends on data; it returns no tensor, or
  ///     none at `layer_output`; forward() assigns attributes; or the prediction does not depend on the layer's output
  /// @throws c10::ValueError  if there is no such layer. A pass throws it if the module returns no tensor at `output`,
  /// or
  ///     several and `output` is unset; and if the cut gives other results than the module
  ScriptNetwork(
      torch::jit::Module module,
      std::string layer,
      std::optional<OutputPath> output = std::nullopt,
      std::optional<OutputPath> layer_output = std::nullopt);

  FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) override;
  FirstPass prepare(const Inputs& inputs) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override;
  std::vector<NamedParameter> parameters() const override;
  std::vector<std::pair<std::string, at::Tensor>> named_tensors() const override;
  std::string layer_name() const override { return layer(); }
  std::string how() const override { return "cut at the layer, a TorchScript module"; }
  bool is_cut() const override { return true; }
  Origin origin_of_prediction() const override;
  Origin origin_of_features() const override;
  std::optional<Dependencies> dependencies(const Normalization& normalization) const override;
  bool may_write_inputs() const override;
  std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalization& normalization = {}) override;
  std::unique_ptr<WorkingCopy> checkout_per_sample(
      const std::vector<NamedParameter>& adapted, const Normalization& normalization, std::int64_t samples) override;

  /// Sets what parameters() returns: the module's tensors, under the names of the model that it was traced from.
  void name_parameters(std::vector<NamedParameter> parameters) { named_ = std::move(parameters); }

  /// Has passes throw c10::ValueError for inputs of sizes that the module is not made for.
  void limit_sizes(std::shared_ptr<const detail::SizeConditions> sizes);

  /// Whether the module is made for inputs of these sizes.
  bool takes(const Inputs& inputs) const;

  /// A copy of the module in which some of parameters() have other values.
  torch::jit::Module with_weights(const std::vector<std::pair<std::string, at::Tensor>>& weights) const;

  /// Why the part before the layer, in eval mode, may give other results for the same inputs and weights when it runs
  /// again: it may draw random numbers, or something that existed before is written to. Empty if it gives the same.
  std::string why_head_may_differ() const;

  /// The module, uncut.
  const torch::jit::Module& module() const { return module_; }
  /// The dotted name of the layer.
  const std::string& layer() const;
  /// Which tensor of the module's output is the prediction.
  const std::optional<OutputPath>& output() const;
  /// Which tensor of the layer's output is injected into.
  const std::optional<OutputPath>& layer_output() const;

 private:
  // Whether in eval mode, the ways to normalize, and whether for weights of each sample.
  using Key = std::tuple<bool, NormStatistics, std::optional<double>, bool>;

  std::shared_ptr<const detail::ScriptCut> cut(const Normalization& normalization = {}, bool per_sample = false) const;
  std::shared_ptr<const detail::ScriptCut> cut_as_it_is() const;
  std::shared_ptr<const detail::ScriptCut> cut(const Key& key) const;

  torch::jit::Module module_;
  std::optional<std::vector<NamedParameter>> named_;
  std::shared_ptr<const detail::CutPlace> place_;
  std::shared_ptr<const detail::ScriptSlots> slots_;
  mutable std::mutex mutex_;
  mutable std::map<Key, std::shared_ptr<const detail::ScriptCut>> cuts_;
};

}  // namespace it3
