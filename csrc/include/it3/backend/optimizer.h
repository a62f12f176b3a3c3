#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/options.h>

namespace it3 {

/// What an optimizer remembers between steps, one tensor a parameter in each list; empty before the first step and
/// where the update rule has no such memory.
struct OptimizerState {
  /// Adam's first moments; the momentum buffers of SGD and RMSprop.
  std::vector<at::Tensor> momentum;
  /// Adam's and RMSprop's averages of the squared gradient; Adagrad's sums.
  std::vector<at::Tensor> squares;
  /// Steps done, a float32 scalar on the parameter's device, which parameters can share.
  std::vector<at::Tensor> steps;
  /// Full-precision weights of half-precision parameters; undefined for the others.
  std::vector<at::Tensor> masters;
};

/// Steps over a list of tensors by the rules of torch.optim (Adam, AdamW, SGD, RMSprop, Adagrad), with ATen's fused
/// kernels where there are any. Half-precision parameters are stepped in float32, in which Adam's eps means something.
class IT3_API Optimizer {
 public:
  /// `state`, if given, is one left by an optimizer with the same options over tensors of the same shapes.
  Optimizer(const Options& options, std::vector<at::Tensor> parameters, OptimizerState state = {});

  /// One step. An undefined gradient leaves its parameter as it is. With Options::max_grad_norm, gradients count as
  /// scaled down to that norm, as torch.nn.utils.clip_grad_norm_ does it.
  void step(std::vector<at::Tensor> gradients);

  /// Puts each element back to its value at the start with this probability, drawn from the device's generator.
  void restore(const std::vector<at::Tensor>& start, double probability);

  OptimizerState take_state() { return std::move(state_); }

 private:
  void make_moments(
      const std::vector<std::size_t>& indices,
      const std::vector<at::Tensor>& weights,
      bool has_momentum,
      bool has_squares);
  std::vector<at::Tensor> count_step(const std::vector<std::size_t>& indices, at::TensorOptions options);

  Options options_;
  std::vector<at::Tensor> parameters_;
  OptimizerState state_;
};

}  // namespace it3
