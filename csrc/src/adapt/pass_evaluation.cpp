#include "adapt/pass_evaluation.h"

#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "method/neutral.h"

namespace it3::detail {

PassEvaluation::PassEvaluation(
    const AdaptCall& call, WorkingCopy& copy, PassInputs& inputs, const Online::CallState& state, bool adapts)
    : call_(call),
      copy_(copy),
      state_(state),
      neutral_(neutral_signal(copy, call.method, inputs, call.samples.has_value())),
      passes_(call.method, inputs, neutral_, call.options.amp.has_value(), call.samples.has_value()),
      objective_(call.options, call.method, passes_, copy, state) {
  if (adapts && copy.has_fixed_head()) passes_.fix_head(copy);
}

std::optional<StepEvaluation> PassEvaluation::step(const at::Tensor& rows) {
  const FirstPass first = (own_passes_ ? *own_passes_ : passes_).first(copy_);
  if (first.prediction.sym_numel() == 0) return std::nullopt;
  return StepEvaluation{first.prediction.detach(), (own_objective_ ? *own_objective_ : objective_)(first, rows)};
}

Answer PassEvaluation::answer(PredictionKind kind, bool with_second) {
  const at::NoGradGuard no_grad;
  const FirstPass pass = passes_.first(copy_);
  const at::Tensor first = pass.prediction.detach();
  at::Tensor second;
  if (with_second || kind != PredictionKind::first) second = passes_.second(copy_, pass, first).detach();
  return answer_from(first, second, kind);
}

void PassEvaluation::step_by(const Inputs& inputs) {
  own_inputs_ = inputs;
  own_pass_inputs_.emplace(own_inputs_, own_inputs_, call_.network.may_write_inputs());
  own_passes_.emplace(call_.method, *own_pass_inputs_, neutral_, call_.options.amp.has_value());
  if (passes_.has_fixed_head()) own_passes_->fix_head(copy_);
  own_objective_.emplace(call_.options, call_.method, *own_passes_, copy_, state_);
}

Answer answer_from(at::Tensor first, at::Tensor second, PredictionKind kind) {
  at::Tensor prediction = first;
  if (kind == PredictionKind::second) prediction = second;
  if (kind == PredictionKind::mean) prediction = (first + second) / 2;
  return {std::move(first), std::move(second), std::move(prediction)};
}

}  // namespace it3::detail
