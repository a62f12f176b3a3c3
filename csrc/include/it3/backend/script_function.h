#pragma once

#include <memory>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>

namespace torch::jit {
struct Code;
}

namespace it3 {

/// A TorchScript module as one of the functions of an engine, which Engine::save() can write. It can be `embed`, a
/// function of the prediction or of prediction and features; `combine`; or `distance`. Several threads may call it at
/// the same time.
///
/// @code{.cpp}
/// torch::jit::Module huber("Huber");
/// huber.define("def forward(self, y1, y0):\n    return torch.huber_loss(y1, y0)\n");
/// it3::Distance distance{it3::ScriptFunction(huber)};
/// auto network = std::make_shared<it3::ScriptNetwork>(torch::jit::load("model.pt"), "encoder");
/// it3::Engine engine(network, {}, it3::Embedder(), nullptr, distance);
/// engine.save("saved.pt", x);
/// @endcode
class IT3_API ScriptFunction {
 public:
  /// @param module  has a forward() of one or two tensors; further arguments need defaults
  /// @throws c10::ValueError  for another forward()
  explicit ScriptFunction(torch::jit::Module module);

  /// forward(a, b); or forward(a), if it takes one tensor.
  ///
  /// @throws c10::TypeError  if it does not return a tensor
  at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) const;

  /// The module that it was made of.
  const torch::jit::Module& module() const { return module_; }

 private:
  torch::jit::Module module_;
  std::shared_ptr<const torch::jit::Code> code_;
  bool takes_both_ = false;
};

}  // namespace it3
