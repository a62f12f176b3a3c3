#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/inputs.h>
#include <it3/options.h>

namespace it3::detail {

struct LossAndGradients {
  at::Tensor loss;  // a scalar; with Options::per_sample one for each sample
  /// By the weights that adapt, in their order; undefined where the loss does not depend on one.
  std::vector<at::Tensor> gradients;
};

/// What one optimizer step goes by.
struct StepEvaluation {
  at::Tensor first;  // y0, detached
  LossAndGradients objective;
};

/// A network's predictions, detached. The second is undefined unless it was asked for, or is part of the answer.
struct Answer {
  at::Tensor first, second, prediction;
};

/// What the inner loop asks of the network at work, whose weights it changes in between.
class Evaluation {
 public:
  virtual ~Evaluation() = default;

  /// distance(y1, y0) and its gradients; nothing for an empty batch, which has no loss.
  ///
  /// @param rows  the samples that count, as indices; undefined for all, as it is with Options::per_sample
  virtual std::optional<StepEvaluation> step(const at::Tensor& rows) = 0;

  virtual Answer answer(PredictionKind kind, bool with_second) = 0;

  /// Lets steps, but not answers, be by these inputs from now on.
  virtual void step_by(const Inputs& inputs) = 0;
};

/// The answer that consists of these predictions, of which the second can be undefined where it is no part of it.
Answer answer_from(at::Tensor first, at::Tensor second, PredictionKind kind);

}  // namespace it3::detail
