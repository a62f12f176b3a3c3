#pragma once

#include <optional>

#include <it3/adapt.h>
#include <it3/backend/online.h>
#include <it3/network.h>

#include "adapt/evaluation.h"
#include "adapt/objective.h"
#include "method/passes.h"
#include "network/pass_inputs.h"

namespace it3::detail {

/// An evaluation by the network's own passes, differentiated by autograd. Borrows all that it is given.
class PassEvaluation : public Evaluation {
 public:
  /// @param state  the start, and the moving average, that the anchor has
  /// @param adapts  whether there will be steps
  PassEvaluation(
      const AdaptCall& call, WorkingCopy& copy, PassInputs& inputs, const Online::CallState& state, bool adapts);
  PassEvaluation(const PassEvaluation&) = delete;
  PassEvaluation& operator=(const PassEvaluation&) = delete;

  std::optional<StepEvaluation> step(const at::Tensor& rows) override;
  Answer answer(PredictionKind kind, bool with_second) override;
  void step_by(const Inputs& inputs) override;

 private:
  const AdaptCall& call_;
  WorkingCopy& copy_;
  const Online::CallState& state_;
  at::Tensor neutral_;
  Passes passes_;
  Objective objective_;
  Inputs own_inputs_;  // of steps, where they have others
  std::optional<PassInputs> own_pass_inputs_;
  std::optional<Passes> own_passes_;
  std::optional<Objective> own_objective_;
};

}  // namespace it3::detail
