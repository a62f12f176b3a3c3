#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/online.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

#include "adapt/evaluation.h"
#include "method/passes.h"

namespace it3::detail {

/// distance(y1, y0), with y1 from the network that is the anchor. Borrows all that it is given.
class Objective {
 public:
  /// @param state  the start, and the moving average, that the anchor has
  Objective(
      const Options& options,
      const Method& method,
      const Passes& passes,
      WorkingCopy& copy,
      const Online::CallState& state);

  /// @param rows  the samples that count, as indices; undefined for all, as it is with Options::per_sample
  LossAndGradients operator()(const FirstPass& first, const at::Tensor& rows);

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
  const Online::CallState& state_;
  std::optional<FirstPass> prepared_;  // of an anchor whose weights never change
};

}  // namespace it3::detail
