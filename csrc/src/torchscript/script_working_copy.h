#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include <it3/network.h>

#include "torchscript/script_cut.h"

namespace it3::detail {

/// A transaction on a cut module. The module itself is never written to before commit().
///
/// Tensors over the memory of an adapted parameter, such as a buffer that is its transposed view, follow its value,
/// without gradients, as in the module.
class ScriptWorkingCopy : public WorkingCopy {
 public:
  /// @param samples  if given, the leaves are stacked, one for each sample: see Network::checkout_per_sample()
  /// @param is_for_comparison  whether it is there to be compared with the module, and not to be fast
  ///
  /// Raises c10::ValueError if two adapted parameters share memory, or another tensor shares some of it in a way that
  /// it cannot follow.
  ScriptWorkingCopy(
      const torch::jit::Module& module,
      std::shared_ptr<const ScriptCut> cut,
      const std::vector<NamedParameter>& adapted,
      std::optional<std::int64_t> samples = std::nullopt,
      bool is_for_comparison = false);

  FirstPass prepare(const Inputs& inputs) override;
  FirstPass predict(const Inputs& inputs, const Inject* inject) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return passes_->resume(inputs, first, inject);
  }
  const std::vector<at::Tensor>& leaves() const override { return leaves_; }
  const std::vector<at::Tensor>& values() const override { return values_; }
  bool has_plain_graphs() const override { return true; }
  bool has_fixed_head() const override;
  bool resumes_behind_layer() const override { return !cut_->repeats_head; }
  std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) override;
  void commit() override;

 private:
  /// A lifted tensor that lies in an adapted parameter's memory.
  struct Follower {
    std::size_t place, parameter;
  };

  void find_places(const std::vector<NamedParameter>& adapted);
  void find_followers(const std::vector<NamedParameter>& adapted);
  at::Tensor value_for(std::size_t parameter);
  void compare(const Inputs& inputs);
  std::unique_ptr<TwoPass> passes_with(std::vector<at::Tensor> weights) const;

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  std::optional<std::int64_t> samples_;
  bool is_for_comparison_;
  bool is_compared_;  // whose inputs are of one kind
  bool has_other_layout_ = false;
  std::vector<at::Tensor> own_lifted_;            // the module's
  std::vector<std::vector<std::size_t>> places_;  // of each adapted parameter among the lifted tensors
  std::vector<Follower> followers_;
  std::vector<bool> is_followed_;  // of each adapted parameter
  std::vector<at::Tensor> own_, values_, leaves_;
  std::unique_ptr<TwoPass> passes_;
};

}  // namespace it3::detail
