#include "adapt_once.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <it3/online.h>
#include <it3/optimizer.h>
#include <it3/selection.h>
#include <it3/uncertainty.h>

#include "answer.h"
#include "as_real.h"
#include "graph_cache.h"
#include "mixed_precision.h"
#include "neutral.h"
#include "objective.h"
#include "passes.h"
#include "random_state_guard.h"
#include "stopping.h"

namespace it3::detail {
namespace {

/// Adaptation differentiates, whatever mode the caller is in.
struct GradientMode {
  c10::InferenceMode no_inference{false};
  at::AutoGradMode with_gradients{true};
};

std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  copies.reserve(tensors.size());
  for (const auto& t : tensors) copies.push_back(t.clone());
  return copies;
}

/// The losses, and the least and greatest of the predictions after and before, which are finite if all are: all that is
/// looked at when the work is done, in one tensor, so that a device is waited for once.
at::Tensor report_on(const at::Tensor& losses, const at::Tensor& prediction, const at::Tensor& unadapted) {
  std::vector<at::Tensor> parts = {losses.flatten()};
  for (const at::Tensor& t : {prediction, unadapted}) {
    const auto [least, greatest] = at::aminmax(as_real(t));
    parts.push_back(least.reshape({1}));
    parts.push_back(greatest.reshape({1}));
  }
  return at::cat(parts);
}

/// What in a report is not finite, for people; nothing if all is.
std::string what_is_not_finite(const at::Tensor& report, const at::Tensor& losses) {
  const at::Tensor on_cpu = report.to(at::kCPU).to(at::kDouble);
  const double* const values = on_cpu.const_data_ptr<double>();
  const std::int64_t count = losses.numel(), width = std::max<std::int64_t>(1, count / losses.size(0));
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i])) continue;
    return c10::str(
        "the loss ", losses.dim() > 1 ? c10::str("of sample ", i % width, " ") : "", "at step ", i / width + 1, " of ",
        losses.size(0), " is ", std::isnan(values[i]) ? "nan" : "infinite");
  }
  const auto are_finite = [&](std::int64_t i) { return std::isfinite(values[i]) && std::isfinite(values[i + 1]); };
  // Some models predict such values by themselves.
  return are_finite(count) || !are_finite(count + 2) ? "" : "the adapted prediction is not finite";
}

/// Conditions on samples, spread over the other dimensions of a tensor.
at::Tensor along_samples(const at::Tensor& conditions, const at::Tensor& t) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(t.dim()), 1);
  sizes[0] = t.size(0);
  return conditions.view(sizes);
}

/// The adapted answer for the samples that adapted, and the one from before for the others.
Answer merge(const at::Tensor& adapted_samples, const Answer& adapted, const Answer& before) {
  const auto chosen = [&](const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() || a.dim() == 0) return a;
    return at::where(along_samples(adapted_samples, a), a, b);
  };
  return {
      chosen(adapted.first, before.first), chosen(adapted.second, before.second),
      chosen(adapted.prediction, before.prediction)};
}

/// Both conditions, where they are defined.
at::Tensor both(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() ? a : b;
  return a.logical_and(b);
}

/// Keeps the weights of samples that shall not move.
class Stay {
 public:
  /// @param may_move  (samples,) of booleans; undefined if all may
  Stay(at::Tensor may_move, const std::vector<at::Tensor>& values) : may_move_(std::move(may_move)), values_(values) {
    if (may_move_.defined()) before_ = copies_of(values_);
  }

  void enforce() const {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < before_.size(); ++i) {
      values_[i].copy_(at::where(along_samples(may_move_, values_[i]), values_[i], before_[i]));
    }
  }

 private:
  at::Tensor may_move_;
  const std::vector<at::Tensor>& values_;
  std::vector<at::Tensor> before_;
};

/// What the inner loop comes to, and the weights at work.
struct Course {
  Outcome outcome;
  std::unique_ptr<WorkingCopy> copy;
  Online::Memory memory;
};

/// The inner loop: up to `num_steps` optimiser steps on distance(y1, y0), then the answer.
Course run(
    Network& network,
    const std::vector<NamedParameter>& adapted,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online::Memory memory,
    bool in_full,
    std::optional<std::int64_t> samples) {
  Course course;
  Adaptation& result = course.outcome.result;
  auto copy = samples ? network.checkout_each(adapted, options.normalisation, *samples)
                      : network.checkout(adapted, options.normalisation);
  const bool needs_start = options.anchor != AnchorName::none || options.restore_probability > 0;
  if (needs_start && memory.start.empty()) memory.start = copies_of(copy->values());

  Passes passes(method, inputs, neutral_signal(*copy, method, inputs), options.amp.has_value());
  if (!adapted.empty() && copy->has_fixed_head()) passes.fix_head(*copy);
  Answer before;
  at::Tensor rows;
  if (options.threshold) {
    before = answer_of(*copy, passes, options.prediction, /*with_second=*/true);
    result.adapted_samples = sample_distances(before.second, before.first) > *options.threshold;
    if (!samples) rows = result.adapted_samples.nonzero().flatten();
  }
  const bool is_needed = !options.threshold || result.adapted_samples.any().item<bool>();

  Objective objective(options, method, passes, *copy, memory);
  Optimizer optimizer(options, copy->values(), std::move(memory.optimizer));
  Stopping stopping(options);
  std::vector<at::Tensor> losses;
  at::Tensor unadapted;
  for (std::int64_t step = 0; step < options.num_steps && is_needed; ++step) {
    const FirstPass first = passes.first(*copy);
    auto [loss, gradients] = objective(first, rows);
    const at::Tensor goes_on = stopping.goes_on(loss);
    if (goes_on.defined() && !goes_on.any().item<bool>()) break;
    const Stay stay(samples ? both(result.adapted_samples, goes_on) : at::Tensor(), copy->values());
    optimizer.step(std::move(gradients));
    if (options.restore_probability > 0) optimizer.restore(memory.start, options.restore_probability);
    stay.enforce();
    objective.follow();
    at::autocast::clear_cache();  // it holds copies of the weights from before
    losses.push_back(loss);
    if (step == 0) unadapted = first.prediction.detach();
  }

  Answer answer = before;
  if (is_needed) answer = answer_of(*copy, passes, options.prediction, in_full);
  if (is_needed && options.threshold) answer = merge(result.adapted_samples, answer, before);
  result.first = answer.first;
  result.prediction = answer.prediction;
  result.second = answer.second;
  if (losses.empty()) {
    result.losses =
        answer.first.new_empty(samples ? std::vector<std::int64_t>{0, *samples} : std::vector<std::int64_t>{0});
  } else {
    result.losses = at::stack(losses);
    if (answer.prediction.numel() > 0) course.outcome.report = report_on(result.losses, answer.prediction, unadapted);
  }
  if (in_full) {
    for (std::size_t i = 0; i < adapted.size(); ++i) result.weights.emplace_back(adapted[i].name, copy->values()[i]);
  }
  memory.optimizer = optimizer.take_state();
  course.memory = std::move(memory);
  course.copy = std::move(copy);
  return course;
}

}  // namespace

Adaptation adapt_once(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& given_inputs,
    Online* online,
    bool in_full,
    Graphs* graphs,
    std::optional<std::int64_t> samples) {
  const GradientMode gradient_mode;
  const Inputs inputs = without_inference_tensors(given_inputs);
  const auto parameters = network.parameters();
  const auto device = parameters.empty() ? at::kCPU : parameters.front().tensor.device().type();
  const MixedPrecision mixed_precision(options.amp, device);
  const auto adapted =
      options.num_steps > 0 ? select_parameters(parameters, options.parameters) : std::vector<NamedParameter>{};
  const RandomStateGuard random_state(tensors_of(parameters));

  auto memory =
      online != nullptr && !adapted.empty() ? online->resume(adapted, options.optimizer_name) : Online::Memory{};
  Course course;
  std::variant<std::string, GraphKey> key;
  if (graphs != nullptr && device == at::kCUDA && !adapted.empty()) {
    key = graph_key(network, method, options, inputs, in_full, samples);
  }
  if (const auto* known = std::get_if<GraphKey>(&key)) {
    course.outcome = graphs->cache().run(*known, inputs, [&](const Inputs& static_inputs) {
      return run(network, adapted, method, options, static_inputs, {}, in_full, samples).outcome;
    });
  } else {
    course = run(network, adapted, method, options, inputs, std::move(memory), in_full, samples);
  }
  Adaptation& result = course.outcome.result;
  const bool has_moved = result.steps() > 0;

  const at::Tensor& report = course.outcome.report;
  const std::string problem = report.defined() ? what_is_not_finite(report, result.losses) : "";
  std::optional<double> watched;
  if (online != nullptr && options.recovery_factor && has_moved) {
    watched = result.losses[0].item<double>();
    const bool has_collapsed = !problem.empty() || online->has_collapsed(*watched, *options.recovery_factor);
    if (has_collapsed && online->has_moved()) {
      course.copy.reset();
      online->reset(network);
      result = adapt_once(network, method, options, inputs, online, in_full, graphs);
      result.recovered = true;
      return std::move(result);
    }
  }
  TORCH_CHECK_VALUE(
      problem.empty(), problem,
      "; the weights are as they were. Check the inputs for NaN and infinity, or lower lr, or set max_grad_norm");
  if (online != nullptr && has_moved) {
    course.copy->commit();
    course.copy.reset();
    online->keep(adapted, std::move(course.memory), watched);
  }
  return std::move(result);
}

}  // namespace it3::detail
