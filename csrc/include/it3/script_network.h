#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include <it3/export.h>
#include <it3/network.h>

namespace it3 {

namespace detail {
struct ScriptCut;
struct ScriptSlots;
}  // namespace detail

/// A TorchScript module, scripted or traced, cut at one layer into a head and a tail. The head runs once for both
/// passes. Its graphs take parameters and buffers as inputs, so adaptation never writes to the module, and one network
/// can adapt in several threads at once.
///
/// The module's train/eval flags, and the way to normalise, may change between calls; each combination is cut once.
class IT3_API ScriptNetwork : public Network {
 public:
  /// @param layer  the dotted name of a submodule, or "" for the whole module
  ///
  /// Raises c10::ValueError if there is no such layer, and, here or at a first call in another mode, if the module
  /// cannot be cut there: the layer is called never, several times, or inside a branch or loop that remains when
  /// constants are known; it does not return a tensor, or a tuple that begins with one; the module assigns attributes
  /// in forward().
  ScriptNetwork(torch::jit::Module module, std::string layer);

  FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) override;
  FirstPass prepare(const Inputs& inputs) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override;
  std::vector<NamedParameter> parameters() const override;
  std::string layer_name() const override { return layer_; }
  Origin origin_of_prediction() const override;
  Origin origin_of_features() const override;
  std::optional<Dependencies> dependencies(const Normalisation& normalisation) const override;
  std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalisation& normalisation = {}) override;
  std::unique_ptr<WorkingCopy> checkout_each(
      const std::vector<NamedParameter>& adapted, const Normalisation& normalisation, std::int64_t samples) override;

  /// A copy of the module with other values for some of parameters(), by name.
  torch::jit::Module with_weights(const std::vector<std::pair<std::string, at::Tensor>>& weights) const;

  /// Whether what comes before the layer gives the same whenever it runs on the same: it draws no random numbers and
  /// writes to nothing that was there before.
  bool has_repeatable_head() const;

  const torch::jit::Module& module() const { return module_; }
  const std::string& layer() const { return layer_; }

 private:
  std::shared_ptr<const detail::ScriptCut> cut(const Normalisation& normalisation = {}, bool of_each = false) const;

  torch::jit::Module module_;
  std::string layer_;
  std::shared_ptr<const detail::ScriptSlots> slots_;
  mutable std::mutex mutex_;
  // By train/eval flags, the ways to normalise, and whether for weights of each sample.
  using Key = std::tuple<std::vector<bool>, NormStatistics, std::optional<double>, bool>;
  mutable std::map<Key, std::shared_ptr<const detail::ScriptCut>> cuts_;
};

}  // namespace it3
