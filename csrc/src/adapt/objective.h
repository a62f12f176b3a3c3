#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/online.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

#include "method/passes.h"

namespace it3::detail {

struct LossAndGradients {
  at::Tensor loss;  // a scalar; with Options::per_sample one for each sample
  /// By the working copy's leaves; undefined where the loss does not depend on one.
  std::vector<at::Tensor> gradients;
};

/// distance(y1, y0), with y1 from the network that is the anchor. Borrows all that it is given.
class Objective {
 public:
  /// @param state  the start and, where the anchor is a moving average of earlier calls, that
  /// @param batch_dim  of the predictions
  Objective(
      const Options& options,
      const Method& method,
      const Passes& passes,
      WorkingCopy& copy,
      Online::CallState& state,
      std::int64_t batch_dim = 0);

  /// @param rows  the samples that count, as indices; undefined for all, as it is with Options::per_sample
  LossAndGradients operator()(const FirstPass& first, const at::Tensor& rows);

  /// Lets the moving average follow the weights after a step.
  void follow();

 private:
  at::Tensor loss_of(const at::Tensor& second, const at::Tensor& first, const at::Tensor& rows) const;
  LossAndGradients differentiate(
      const at::Tensor& second,
      const at::Tensor& first,
      const at::Tensor& rows,
      const std::vector<at::Tensor>& leaves) const;
  /// Gradients by the leaves of what has these gradients by the outputs: one, or several in half precision.
  std::vector<at::Tensor> pull_back(
      const std::vector<at::Tensor>& outputs,
      const std::vector<at::Tensor>& by_outputs,
      const std::vector<at::Tensor>& leaves) const;

  const Options& options_;
  const Method& method_;
  const Passes& passes_;
  WorkingCopy& copy_;
  Online::CallState& state_;
  std::int64_t batch_dim_;
  std::optional<FirstPass> prepared_;  // of the anchor, until its weights change
};

}  // namespace it3::detail
