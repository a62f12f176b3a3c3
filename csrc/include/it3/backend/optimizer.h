#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/options.h>

namespace it3 {

/// What an optimizer remembers between steps. Each list has one tensor for each parameter, or is empty: before the
/// first step, and if the update rule does not use it.
struct OptimizerState {
  /// Adam's first moments; the momentum buffers of SGD and RMSprop.
  std::vector<at::Tensor> momentum;
  /// Adam's and RMSprop's averages of the squared gradient; Adagrad's sums.
  std::vector<at::Tensor> squares;
  /// The number of steps taken, a float32 scalar on the parameter's device. Parameters can share one tensor.
  std::vector<at::Tensor> steps;
  /// The float32 weights of half-precision parameters; undefined for other parameters.
  std::vector<at::Tensor> masters;
};

/// An optimizer of a list of tensors, with the update rules of torch.optim (Adam, AdamW, SGD, RMSprop, Adagrad) and
/// ATen's fused kernels where there are any. Half-precision parameters are stepped in float32, as Adam's eps would
/// otherwise vanish.
///
/// @code{.cpp}
/// at::Tensor weight = torch::ones({3});
/// it3::Options options{.optimizer_name = it3::OptimizerKind::sgd, .lr = 0.5};
/// it3::Optimizer optimizer(options, {weight});
/// optimizer.step({torch::ones({3})});
/// assert(weight.eq(0.5).all().item<bool>());
/// @endcode
class IT3_API Optimizer {
 public:
  /// @param options  which optimizer, with its learning rate and the like
  /// @param parameters  the tensors that steps change in place
  /// @param state  what take_state() of an optimizer with the same options has returned, for tensors of the same shapes
  Optimizer(const Options& options, std::vector<at::Tensor> parameters, OptimizerState state = {});

  /// Takes one step. A parameter with an undefined gradient stays as it is. With Options::max_grad_norm, gradients are
  /// scaled down to that norm first, as by torch.nn.utils.clip_grad_norm_.
  ///
  /// @param gradients  one for each parameter
  void step(std::vector<at::Tensor> gradients);

  /// Sets each element back to its value at the start with a probability, drawn by the device's random generator: the
  /// stochastic restoration of CoTTA (arXiv 2203.13591).
  void restore(const std::vector<at::Tensor>& start, double probability);

  /// Moves the state out of the optimizer.
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
