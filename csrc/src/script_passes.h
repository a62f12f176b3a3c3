#pragma once

#include <memory>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include <it3/network.h>

#include "script_cut.h"

namespace it3::detail {

/// The module's own tensors that a cut lifted; copies of those that the graphs write to, unless `writable`.
std::vector<at::Tensor> lifted_tensors(const ScriptCut& cut, bool writable);

/// A cut's passes on some tensors.
class ScriptPasses : public TwoPass {
 public:
  /// @param has_other_layout  whether tensors have another memory layout than the module's own
  ScriptPasses(
      const torch::jit::Module& module,
      std::shared_ptr<const ScriptCut> cut,
      std::vector<at::Tensor> lifted,
      bool has_other_layout)
      : module_(module), cut_(std::move(cut)), lifted_(std::move(lifted)), has_other_layout_(has_other_layout) {}

  FirstPass predict(const Inputs& inputs, const Inject* inject) override;
  FirstPass prepare(const Inputs& inputs) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override;

 private:
  at::Tensor in_usual_layout(const at::Tensor& t, const FirstPass& first) const;

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  std::vector<at::Tensor> lifted_;
  bool has_other_layout_;
};

}  // namespace it3::detail
