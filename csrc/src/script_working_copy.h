#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include <it3/network.h>

#include "script_cut.h"

namespace it3::detail {

/// A transaction on a cut module. The module itself is never written to before commit().
class ScriptWorkingCopy : public WorkingCopy {
 public:
  /// @param samples  if given, the leaves are stacked, one for each sample: see Network::checkout_each()
  ScriptWorkingCopy(
      const torch::jit::Module& module,
      std::shared_ptr<const ScriptCut> cut,
      const std::vector<NamedParameter>& adapted,
      std::optional<std::int64_t> samples = std::nullopt);

  FirstPass prepare(const Inputs& inputs) override { return passes_->prepare(inputs); }
  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return passes_->predict(inputs, inject); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return passes_->resume(inputs, first, inject);
  }
  const std::vector<at::Tensor>& leaves() const override { return leaves_; }
  const std::vector<at::Tensor>& values() const override { return values_; }
  bool has_plain_graphs() const override { return true; }
  bool has_fixed_head() const override;
  std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) override;
  void commit() override;

 private:
  std::unique_ptr<TwoPass> passes_with(const std::vector<at::Tensor>& weights) const;

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  std::optional<std::int64_t> samples_;
  bool has_other_layout_ = false;
  std::vector<at::Tensor> lifted_;                // all constants
  std::vector<std::vector<std::size_t>> places_;  // of each adapted parameter among the lifted tensors
  std::vector<at::Tensor> own_, values_, leaves_;
  std::unique_ptr<TwoPass> passes_;
};

}  // namespace it3::detail
