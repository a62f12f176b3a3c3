#pragma once

#include <memory>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>

namespace torch::jit {
struct Code;
}

namespace it3 {

/// A TorchScript module as one of Method's functions, which can be saved in an engine's file: as `embed` (of the
/// prediction, or of prediction and features), as `combine` and as `distance`. Safe to call in several threads at once.
class IT3_API ScriptFunction {
 public:
  /// Raises c10::ValueError unless forward() takes one tensor or two; more may have defaults.
  explicit ScriptFunction(torch::jit::Module module);

  /// forward(a, b), or forward(a) if it takes one. Raises c10::TypeError if that is no tensor.
  at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) const;

  const torch::jit::Module& module() const { return module_; }

 private:
  torch::jit::Module module_;
  std::shared_ptr<const torch::jit::Code> code_;
  bool takes_both_ = false;
};

}  // namespace it3
