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
  CutRefusal(const std::string& message, std::string why);
  /// Why, by itself.
  const std::string& why() const { return why_; }

 private:
  std::string why_;
};

/// A TorchScript module, scripted or traced, cut at one layer into a head and a tail. The head runs once for both
/// passes. Its graphs take parameters and buffers as inputs, so adaptation never writes to the module, and one network
/// can adapt in several threads at once. The network's own passes, which training runs, are for one thread at a time.
///
/// Working copies run in eval mode, as if every `training` flag were false; the network's own passes run with the flags
/// as they are. The module is cut once for each way to normalize, and again when an attribute that forward() reads has
/// changed. The first call with a new kind of inputs (their number, dtypes or numbers of dimensions) compares the cut
/// with the module's own forward(), predictions and gradients, unless forward() draws random numbers.
class IT3_API ScriptNetwork : public Network {
 public:
  /// @param layer  the dotted name of a submodule, or "" for the whole module
  /// @param output  where the prediction is in what the module returns; nothing: its only tensor
  /// @param layer_output  where the tensor that is injected into is in what the layer returns; nothing: its first
  ///                      tensor. Tuples, lists and, if it is given, dicts are looked into
  ///
  /// Raises c10::ValueError if there is no such layer, and CutRefusal, here or at a first call in another mode, if the
  /// module cannot be cut there: the layer is called never, several times, or inside a branch or loop that remains when
  /// constants are known; there is no tensor in what it returns, or none at `layer_output`; the module assigns
  /// attributes in forward(); the prediction does not depend on the layer's output. A pass raises c10::ValueError if
  /// the module returns no tensor at `output`, or several and `output` is not given, and if the cut gives other results
  /// than the module.
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

  /// Makes parameters() these: the module's tensors under the names of the one that it was traced from.
  void name_parameters(std::vector<NamedParameter> parameters) { named_ = std::move(parameters); }

  /// Has passes raise c10::ValueError for inputs of sizes that the module is not for.
  void limit_sizes(std::shared_ptr<const detail::SizeConditions> sizes);

  /// Whether the module is for inputs of these sizes.
  bool takes(const Inputs& inputs) const;

  /// A copy of the module with other values for some of parameters(), by name.
  torch::jit::Module with_weights(const std::vector<std::pair<std::string, at::Tensor>>& weights) const;

  /// Why what comes before the layer may give something else in eval mode when it runs once more on the same: it may
  /// draw random numbers, or something is written to that was there before. Empty if it gives the same.
  std::string why_head_may_differ() const;

  const torch::jit::Module& module() const { return module_; }
  const std::string& layer() const;
  const std::optional<OutputPath>& output() const;
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
