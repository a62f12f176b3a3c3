#include "adapt/inner_loop.h"

#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <it3/backend/interrupts.h>
#include <it3/backend/optimizer.h>

#include "adapt/at_work.h"
#include "adapt/finite_check.h"
#include "adapt/moving_average.h"
#include "adapt/sample_choice.h"
#include "adapt/stopped_samples.h"
#include "adapt/stopping.h"

namespace it3::detail {
namespace {

/// The losses of the steps: of a scalar for each, or, of stacked samples, one for each sample.
class StepLosses {
 public:
  /// @param may_move  the samples that took this step; undefined for all
  void add(const at::Tensor& loss, const at::Tensor& may_move) {
    if (!may_move.defined()) return losses_.push_back(loss);
    // A sample that stopped repeats its last loss, and one that never moves has none.
    const at::Tensor last = losses_.empty() ? at::zeros_like(loss) : losses_.back();
    losses_.push_back(at::where(may_move, loss, last));
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
  AtWork work = at_work(call, adapted, inputs, state);
  Evaluation& evaluation = *work.evaluation;
  const std::vector<at::Tensor>& values = work.weights->values();
  const SampleChoice choice(call, evaluation);
  Optimizer optimizer(options, values, std::move(state.optimizer));
  Stopping stopping(options);
  StepLosses losses;
  for (std::int64_t step = 0; step < options.num_steps && choice.has_any(); ++step) {
    check_interrupts();
    auto evaluated = evaluation.step(choice.rows());
    if (!evaluated) break;
    auto& [loss, gradients] = evaluated->objective;
    const at::Tensor goes_on = stopping.goes_on(loss);
    if (goes_on.defined() && !goes_on.any().item<bool>()) break;
    const at::Tensor may_move = call.samples ? both(choice.adapted(), goes_on) : at::Tensor();
    const StoppedSamples stopped(may_move, values);
    optimizer.step(std::move(gradients));
    if (options.restore_probability > 0) optimizer.restore(state.start, options.restore_probability);
    stopped.restore();
    if (options.anchor == AnchorKind::ema) follow(state.average, values, options);
    at::autocast::clear_cache();  // it holds copies of the weights from before
    losses.add(loss, may_move);
    if (step == 0) loop.outcome.unadapted = choice.first_or(evaluated->first);
  }

  const Answer answer = choice.answer();
  Adaptation& result = loop.outcome.result;
  result.first = answer.first;
  result.second = answer.second;
  result.prediction = answer.prediction;
  result.adapted_samples = choice.adapted();
  result.losses = losses.stacked(answer.first, call.samples);
  if (!losses.empty()) {
    const bool keeps_weights = (call.with_details || call.online != nullptr) && !call.samples;
    loop.outcome.report = report_on(
        result.losses, answer.prediction, loop.outcome.unadapted, keeps_weights ? values : std::vector<at::Tensor>{});
  }
  if (call.with_details) {
    for (std::size_t i = 0; i < adapted.size(); ++i) result.weights.emplace_back(adapted[i].name, values[i]);
  }
  state.optimizer = optimizer.take_state();
  loop.state = std::move(state);
  loop.weights = std::move(work.weights);
  return loop;
}

}  // namespace it3::detail
