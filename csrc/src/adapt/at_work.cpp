#include "adapt/at_work.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <it3/backend/compiled.h>
#include <it3/backend/graphs.h>
#include <it3/backend/interrupts.h>
#include <it3/backend/network_outputs.h>

#include "adapt/moving_average.h"
#include "adapt/pass_evaluation.h"
#include "adapt/program_evaluation.h"
#include "adapt/stopped_samples.h"
#include "cuda_graphs/device_graph.h"
#include "support/all_finite.h"
#include "support/full_float32.h"

namespace it3::detail {
namespace {

/// What the anchor needs, from the weights before anything adapted.
void start(Online::CallState& state, const Options& options, const AdaptedWeights& weights) {
  const bool needs_start = options.anchor != AnchorKind::self || options.restore_probability > 0;
  if (needs_start && state.start.empty()) state.start = copies_of(weights.values());
  if (options.anchor == AnchorKind::ema && state.average.empty()) state.average = moving_average_of(state.start);
}

AtWork by_passes(
    const AdaptCall& call, const std::vector<NamedParameter>& adapted, PassInputs& inputs, Online::CallState& state) {
  const Normalization normalization = call.options.normalization();
  auto copy = call.samples ? call.network.checkout_per_sample(adapted, normalization, *call.samples)
                           : call.network.checkout(adapted, normalization);
  start(state, call.options, *copy);
  auto evaluation = std::make_unique<PassEvaluation>(call, *copy, inputs, state, !adapted.empty());
  return {std::move(copy), std::move(evaluation)};
}

AtWork by_programs(
    const AdaptCall& call,
    const Compiled& compiled,
    const std::vector<NamedParameter>& adapted,
    Online::CallState& state) {
  auto weights = std::make_unique<PlainWeights>(adapted, call.samples);
  start(state, call.options, *weights);
  auto evaluation = std::make_unique<ProgramEvaluation>(call, compiled, weights->values(), state);
  return {std::move(weights), std::move(evaluation)};
}

/// What an evaluation gives with the weights varied by so much, and with others: a little off, as deep networks soon
/// overflow.
std::vector<NetworkOutputs> outputs_of(const AtWork& work, const AdaptCall& call, double varied_by) {
  const std::vector<at::Tensor>& weights = work.weights->values();
  NetworkOutputs first, moved;
  // Under autocast, numbers are no better than those that it computes with; bfloat16 has the range of float32.
  const auto rounded = [&](const at::Tensor& t) { return t.defined() && call.options.amp ? t.to(at::kBFloat16) : t; };
  const auto prediction = [&] {
    return rounded(work.evaluation->answer(PredictionKind::first, /*with_second=*/false).first);
  };
  const auto take_step = [&](NetworkOutputs& into, const at::Tensor& rows) {
    auto step = work.evaluation->step(rows);
    for (const at::Tensor& t : {step->objective.loss, step->first}) into.predictions.push_back(rounded(t));
    for (const at::Tensor& gradient : step->objective.gradients) into.gradients.push_back(rounded(gradient));
    return step->first;
  };
  at::autocast::clear_cache();  // which may have weights of other copies
  if (varied_by != 0) vary(weights, varied_by);
  const Answer answer = work.evaluation->answer(PredictionKind::first, /*with_second=*/true);
  first.predictions = {rounded(answer.first), rounded(answer.second), prediction()};
  if (!weights.empty()) {
    const at::Tensor own = take_step(first, {});
    if (call.options.threshold && !call.samples) {
      const std::int64_t samples = own.size(call.method.prediction_layout.batch_of(own.dim()));
      take_step(first, at::arange(std::max<std::int64_t>(samples - 1, 1), own.options().dtype(at::kLong)));
    }
  }
  move(weights, 0.1);
  first.moved = {prediction()};
  if (!weights.empty()) take_step(moved, {});
  move(weights);
  moved.moved = {prediction()};
  return {std::move(first), std::move(moved)};
}

/// The least time of some runs, in seconds.
double time_of(const std::function<void()>& run) {
  constexpr int runs = 3;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return least;
}

/// The first call of a kind, evaluated in both ways.
class Trial {
 public:
  Trial(
      const AdaptCall& call,
      const Compiled& compiled,
      const std::vector<NamedParameter>& adapted,
      PassInputs& inputs,
      const Online::CallState& state)
      : call_(call), compiled_(compiled), adapted_(adapted), inputs_(inputs), state_(state) {}

  /// Why such calls are not to be evaluated by programs; nothing where this one does not tell.
  std::optional<std::string> why_not() const {
    std::optional<FullFloat32> full_precision(std::in_place);
    const auto of_programs = [&](const Inputs& inputs, double varied_by) {
      const AdaptCall call = call_.with(call_.method, inputs);
      Online::CallState state = state_;
      return outputs_of(by_programs(call, compiled_, adapted_, state), call, varied_by);
    };
    const auto of_passes = [&](const Inputs& inputs, double varied_by) {
      const AdaptCall call = call_.with(call_.method, inputs);
      PassInputs pass_inputs(inputs, inputs, call.network.may_write_inputs());
      Online::CallState state = state_;
      return outputs_of(by_passes(call, adapted_, pass_inputs, state), call, varied_by);
    };
    const std::vector<NetworkOutputs> actual = of_programs(call_.inputs, 0), expected = of_passes(call_.inputs, 0);
    if (!are_all_finite(expected.front().predictions)) return std::nullopt;
    const std::string how = difference(actual, expected, call_.inputs, of_programs, of_passes);
    if (!how.empty()) return "the program " + how;
    full_precision.reset();
    return compiled_.is_measured() && are_passes_faster() ? "the passes are faster" : "";
  }

 private:
  /// Times both in turn, as other work on the machine comes and goes.
  bool are_passes_faster() const {
    constexpr int rounds = 5;
    constexpr std::chrono::milliseconds enough(100);
    const auto begin = std::chrono::steady_clock::now();
    double passes = std::numeric_limits<double>::infinity(), programs = passes;
    for (int i = 0; i < rounds && (i == 0 || std::chrono::steady_clock::now() - begin < enough); ++i) {
      passes = std::min(passes, time_by(false));
      programs = std::min(programs, time_by(true));
    }
    return passes < programs;
  }

  void evaluate_by(bool programs) const {
    Online::CallState state = state_;
    const AtWork work =
        programs ? by_programs(call_, compiled_, adapted_, state) : by_passes(call_, adapted_, inputs_, state);
    for (std::int64_t step = 0; step < std::min<std::int64_t>(call_.options.num_steps, 3); ++step) {
      work.evaluation->step({});
    }
    work.evaluation->answer(call_.options.prediction, call_.with_details);
  }

  /// On a GPU, in a CUDA graph if such calls are going to be.
  double time_by(bool programs) const {
    const c10::Device device = call_.inputs.args[0].toTensor().device();
    if (device.is_cpu()) return time_of([&] { evaluate_by(programs); });
    const c10::impl::VirtualGuardImpl guard(device.type());
    if (Graphs::why_not(call_.network, call_.method, call_.options, call_.inputs).empty()) {
      try {
        DeviceGraph graph(device, [&] { evaluate_by(programs); });
        return time_of([&] {
          graph.replay();
          guard.synchronizeDevice(device.index());
        });
      } catch (const std::exception& error) {  // such calls will not be in a graph, either
        rethrow_interrupt(error);
      }
    }
    return time_of([&] {
      evaluate_by(programs);
      guard.synchronizeDevice(device.index());
    });
  }

  const AdaptCall& call_;
  const Compiled& compiled_;
  const std::vector<NamedParameter>& adapted_;
  PassInputs& inputs_;
  const Online::CallState& state_;
};

}  // namespace

AtWork at_work(
    const AdaptCall& call, const std::vector<NamedParameter>& adapted, PassInputs& inputs, Online::CallState& state) {
  if (call.compiled == nullptr) return by_passes(call, adapted, inputs, state);
  for (const auto& compiled : *call.compiled) {
    const auto verdict = compiled->verdict(call, adapted);
    if (!verdict.why_not.empty()) continue;
    AtWork work = by_programs(call, *compiled, adapted, state);
    if (!verdict.is_decided || !verdict.is_same_memory) {
      if (!static_cast<ProgramEvaluation&>(*work.evaluation).why_not().empty()) continue;
      work = {};
      const auto why_not = verdict.is_decided ? "" : Trial(call, *compiled, adapted, inputs, state).why_not();
      if (why_not) compiled->decide(call, *why_not);
      if (!why_not || !why_not->empty()) continue;
      work = by_programs(call, *compiled, adapted, state);
    }
    return work;
  }
  return by_passes(call, adapted, inputs, state);
}

}  // namespace it3::detail
