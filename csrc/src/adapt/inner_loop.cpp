#include "adapt/inner_loop.h"

#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <it3/backend/interrupts.h>
#include <it3/backend/optimizer.h>

#include "adapt/answer.h"
#include "adapt/finite_check.h"
#include "adapt/objective.h"
#include "adapt/sample_choice.h"
#include "adapt/stopped_samples.h"
#include "adapt/stopping.h"
#include "method/neutral.h"
#include "method/passes.h"

namespace it3::detail {
namespace {

std::unique_ptr<WorkingCopy> checkout(const AdaptCall& call, const std::vector<NamedParameter>& adapted) {
  const Normalization normalization = call.options.normalization();
  return call.samples ? call.network.checkout_per_sample(adapted, normalization, *call.samples)
                      : call.network.checkout(adapted, normalization);
}

/// The losses of the steps: of a scalar for each, or, of stacked samples, one for each sample.
class StepLosses {
 public:
  /// @param may_move  the samples that took this step; undefined for all
  void add(const at::Tensor& loss, const at::Tensor& may_move) {
    // A sample that stopped repeats its last loss, and one that never moves has none.
    const at::Tensor last = losses_.empty() ? at::zeros_like(loss) : losses_.back();
    losses_.push_back(may_move.defined() ? at::where(may_move, loss, last) : loss);
  }

  bool empty() const { return losses_.empty(); }

  /// (steps,), or (steps, samples).
  at::Tensor stacked(const at::Tensor& prediction, std::optional<std::int64_t> samples) const {
    if (!losses_.empty()) return at::stack(losses_);
    return prediction.new_empty(samples ? std::vector<std::int64_t>{0, *samples} : std::vector<std::int64_t>{0});
  }

 private:
  std::vector<at::Tensor> losses_;
};

}  // namespace

LoopResult inner_loop(
    const AdaptCall& call, const std::vector<NamedParameter>& adapted, PassInputs& inputs, Online::CallState state) {
  const Options& options = call.options;
  LoopResult loop;
  loop.copy = checkout(call, adapted);
  WorkingCopy& copy = *loop.copy;
  const bool needs_start = options.anchor != AnchorKind::self || options.restore_probability > 0;
  if (needs_start && state.start.empty()) state.start = copies_of(copy.values());

  const at::Tensor neutral = neutral_signal(copy, call.method, inputs);
  Passes passes(call.method, inputs, neutral, options.amp.has_value(), call.samples.has_value());
  if (!adapted.empty() && copy.has_fixed_head()) passes.fix_head(copy);
  const SampleChoice choice(call, copy, passes, neutral);

  Objective objective(options, call.method, choice.passes(), copy, state, choice.batch_dim());
  Optimizer optimizer(options, copy.values(), std::move(state.optimizer));
  Stopping stopping(options);
  StepLosses losses;
  for (std::int64_t step = 0; step < options.num_steps && choice.has_any(); ++step) {
    check_interrupts();
    const FirstPass first = choice.passes().first(copy);
    if (first.prediction.numel() == 0) break;  // an empty batch has no loss
    auto [loss, gradients] = objective(first, choice.rows());
    const at::Tensor goes_on = stopping.goes_on(loss);
    if (goes_on.defined() && !goes_on.any().item<bool>()) break;
    const at::Tensor may_move = call.samples ? both(choice.adapted(), goes_on) : at::Tensor();
    const StoppedSamples stopped(may_move, copy.values());
    optimizer.step(std::move(gradients));
    if (options.restore_probability > 0) optimizer.restore(state.start, options.restore_probability);
    stopped.restore();
    objective.follow();
    at::autocast::clear_cache();  // it holds copies of the weights from before
    losses.add(loss, may_move);
    if (step == 0) loop.outcome.unadapted = choice.first_or(first.prediction.detach());
  }

  const Answer answer = choice.answer_of(copy);
  Adaptation& result = loop.outcome.result;
  result.first = answer.first;
  result.second = answer.second;
  result.prediction = answer.prediction;
  result.adapted_samples = choice.adapted();
  result.losses = losses.stacked(answer.first, call.samples);
  if (!losses.empty()) {
    const bool keeps_weights = (call.with_details || call.online != nullptr) && !call.samples;
    loop.outcome.report = report_on(
        result.losses, answer.prediction, loop.outcome.unadapted,
        keeps_weights ? copy.values() : std::vector<at::Tensor>{});
  }
  if (call.with_details) {
    for (std::size_t i = 0; i < adapted.size(); ++i) result.weights.emplace_back(adapted[i].name, copy.values()[i]);
  }
  state.optimizer = optimizer.take_state();
  loop.state = std::move(state);
  return loop;
}

}  // namespace it3::detail
