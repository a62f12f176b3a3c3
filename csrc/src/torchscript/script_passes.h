#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>

#include <it3/network.h>

#include "torchscript/script_cut.h"

namespace it3::detail {

/// The module's own tensors that a cut lifted; copies of those that the graphs write to, unless `writable`.
std::vector<at::Tensor> lifted_tensors(const ScriptCut& cut, bool writable);

/// Copies of those of a cut's lifted tensors that its graphs write to, in the places of these.
void copy_written(const ScriptCut& cut, std::vector<at::Tensor>& lifted);

/// forward()'s arguments by its schema: defaults filled in, keywords put in their places, without self.
torch::jit::Stack script_arguments_of(const torch::jit::Module& module, const Inputs& inputs);

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
  using Values = std::vector<c10::IValue>;

  Values run_head(const Values& arguments) const;
  at::Tensor run_tail(Values handed, const Inject* inject, bool is_own) const;
  Values behind_head(const FirstPass& first) const;
  /// The head's values, for run_tail(), and what a FirstPass carries of them.
  std::pair<Values, FirstPass> start(const Inputs& inputs);
  at::Tensor in_usual_layout(const at::Tensor& t, bool is_usual) const;

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  std::vector<at::Tensor> lifted_;
  bool has_other_layout_;
};

}  // namespace it3::detail
