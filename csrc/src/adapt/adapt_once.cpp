#include "adapt/adapt_once.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <it3/backend/online.h>
#include <it3/backend/optimizer.h>
#include <it3/backend/samples.h>
#include <it3/backend/selection.h>
#include <it3/backend/uncertainty.h>

#include "adapt/answer.h"
#include "adapt/objective.h"
#include "adapt/online_guard.h"
#include "adapt/stopping.h"
#include "cuda_graphs/graph_cache.h"
#include "method/neutral.h"
#include "method/passes.h"
#include "network/pass_inputs.h"
#include "support/as_real.h"
#include "support/mixed_precision.h"
#include "support/random_state_guard.h"
#include "support/sample_names.h"

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
///
/// @param weights  those that the caller will keep, whose greatest norm is looked at too
at::Tensor report_on(
    const at::Tensor& losses,
    const at::Tensor& prediction,
    const at::Tensor& unadapted,
    const std::vector<at::Tensor>& weights) {
  std::vector<at::Tensor> parts = {losses.flatten()};
  for (const at::Tensor& t : {prediction, unadapted}) {
    const auto [least, greatest] = at::aminmax(as_real(t));
    parts.push_back(least.reshape({1}));
    parts.push_back(greatest.reshape({1}));
  }
  if (weights.empty()) return at::cat(parts);
  at::Tensor sum = at::zeros({1}, losses.options().dtype(at::kDouble));
  for (const at::Tensor& norm : at::_foreach_norm(weights)) sum += norm.to(sum.device(), at::kDouble);
  parts.push_back(sum);
  return at::cat(parts);
}

/// What of the outcome is not finite, for people; nothing if all is.
std::string what_is_not_finite(const LoopOutcome& outcome) {
  if (!outcome.report.defined()) return "";
  const at::Tensor& losses = outcome.result.losses;
  const at::Tensor on_cpu = outcome.report.to(at::kCPU).to(at::kDouble);
  const double* const values = on_cpu.const_data_ptr<double>();
  const std::int64_t count = losses.numel(), width = std::max<std::int64_t>(1, count / losses.size(0));
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i])) continue;
    return c10::str(
        "the loss ", losses.dim() > 1 ? c10::str("of sample ", i % width, " ") : "", "at step ", i / width + 1, " of ",
        losses.size(0), " is ", std::isnan(values[i]) ? "nan" : "infinite");
  }
  if (on_cpu.size(0) > count + 4 && !std::isfinite(values[count + 4])) return "an adapted weight is not finite";
  const auto are_finite = [&](std::int64_t i) { return std::isfinite(values[i]) && std::isfinite(values[i + 1]); };
  if (are_finite(count)) return "";
  // Some models predict such values by themselves.
  bool is_own = !are_finite(count + 2);
  if (is_own && outcome.unadapted.defined() && outcome.unadapted.sizes() == outcome.result.prediction.sizes()) {
    const auto is_new = outcome.result.prediction.isfinite().logical_not().logical_and(outcome.unadapted.isfinite());
    is_own = !is_new.any().item<bool>();
  }
  return is_own ? "" : "the adapted prediction is not finite";
}

/// Conditions on samples, spread over the other dimensions of a tensor.
at::Tensor along_samples(const at::Tensor& conditions, const at::Tensor& t, std::int64_t batch_dim = 0) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(t.dim()), 1);
  sizes[static_cast<std::size_t>(batch_dim)] = conditions.size(0);
  return conditions.view(sizes);
}

/// The adapted answer for the samples that adapted, and the one from before for the others.
Answer merge(const at::Tensor& adapted_samples, const Answer& adapted, const Answer& before, std::int64_t batch_dim) {
  const auto chosen = [&](const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() || a.dim() == 0) return a;
    return at::where(along_samples(adapted_samples, a, batch_dim), a, b);
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
class HeldWeights {
 public:
  /// @param may_move  (samples,) of booleans; undefined if all may
  HeldWeights(at::Tensor may_move, const std::vector<at::Tensor>& values)
      : may_move_(std::move(may_move)), values_(values) {
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

/// Which samples have inputs that are not finite, (B,) of booleans; undefined where it is not clear what they are.
at::Tensor non_finite_inputs(const Inputs& inputs, const Method& method, bool spares_masks) {
  try {
    return Samples(inputs, method.in_dims, method.prediction_layout).are_finite(spares_masks).logical_not();
  } catch (const c10::ValueError&) {
    return {};
  }
}

/// Distances, NaN for samples whose inputs are not finite: their predictions may be, as of a tanh, but no gradients.
at::Tensor without_non_finite_inputs(const at::Tensor& distances, const Inputs& inputs, const Method& method) {
  const at::Tensor non_finite = non_finite_inputs(inputs, method, /*spares_masks=*/true);
  if (!non_finite.defined() || non_finite.sizes() != distances.sizes()) return distances;
  return distances.masked_fill(non_finite.to(distances.device()), std::numeric_limits<double>::quiet_NaN());
}

/// The inputs with the samples whose distance is not finite replaced by one that adapts: as part of the batch, even
/// with no weight in the loss, they would make gradients NaN.
Inputs with_finite_samples(
    const Inputs& inputs, const Method& method, const at::Tensor& distances, const at::Tensor& rows) {
  const at::Tensor non_finite = distances.isfinite().logical_not();
  const std::string names = names_of_samples(non_finite);
  std::optional<Samples> samples;
  try {
    samples.emplace(inputs, method.in_dims, method.prediction_layout);
  } catch (const c10::ValueError& error) {
    TORCH_CHECK_VALUE(
        false, "the predictions for ", names,
        " are not finite, and they cannot be left out: ", error.what_without_backtrace());
  }
  TORCH_CHECK_VALUE(
      samples->count() == distances.size(0), "the predictions for ", names,
      " are not finite, and they cannot be left out: the inputs have ", samples->count(), " samples, the prediction ",
      distances.size(0), "; give in_dims");
  return samples->select(at::where(non_finite, rows[0], at::arange(distances.size(0), rows.options())));
}

/// What the inner loop comes to, and the weights at work.
struct LoopResult {
  LoopOutcome outcome;
  std::unique_ptr<WorkingCopy> copy;
  Online::Memory memory;
};

/// The inner loop: up to `num_steps` optimizer steps on distance(y1, y0), then the answer.
///
/// @param keeps_weights  whether somebody will use the adapted weights
LoopResult run(
    Network& network,
    const std::vector<NamedParameter>& adapted,
    const Method& method,
    const Options& options,
    const Inputs& given,
    PassInputs& inputs,
    Online::Memory memory,
    bool with_details,
    bool keeps_weights,
    std::optional<std::int64_t> samples) {
  LoopResult loop;
  Adaptation& result = loop.outcome.result;
  auto copy = samples ? network.checkout_per_sample(adapted, options.normalization, *samples)
                      : network.checkout(adapted, options.normalization);
  const bool needs_start = options.anchor != AnchorKind::none || options.restore_probability > 0;
  if (needs_start && memory.start.empty()) memory.start = copies_of(copy->values());

  const bool widens = options.amp.has_value();
  const at::Tensor neutral = neutral_signal(*copy, method, inputs);
  Passes passes(method, inputs, neutral, widens, samples.has_value());
  const bool has_fixed_head = !adapted.empty() && copy->has_fixed_head();
  if (has_fixed_head) passes.fix_head(*copy);
  Answer before;
  at::Tensor rows;
  std::int64_t batch_dim = 0;
  Inputs finite_samples;
  PassInputs finite_inputs(finite_samples, finite_samples, network.may_write_inputs());
  Passes finite_passes(method, finite_inputs, neutral, widens);  // never of stacked samples
  const Passes* of_steps = &passes;
  if (options.threshold) {
    before = answer_of(*copy, passes, options.prediction, /*with_second=*/true);
    if (!samples) batch_dim = method.prediction_layout.batch_of(before.first.dim());
    at::Tensor distances = sample_distances(before.second, before.first, batch_dim);
    distances = without_non_finite_inputs(distances, given, method);
    result.adapted_samples = distances > *options.threshold;
    if (!samples) rows = result.adapted_samples.nonzero().flatten();
    if (rows.defined() && rows.size(0) > 0 && !distances.isfinite().all().item<bool>()) {
      finite_samples = with_finite_samples(given, method, distances, rows);
      if (has_fixed_head) finite_passes.fix_head(*copy);
      of_steps = &finite_passes;
    }
  }
  const bool is_needed = !options.threshold || result.adapted_samples.any().item<bool>();

  Objective objective(options, method, *of_steps, *copy, memory, batch_dim);
  Optimizer optimizer(options, copy->values(), std::move(memory.optimizer));
  Stopping stopping(options);
  std::vector<at::Tensor> losses;
  at::Tensor unadapted;
  for (std::int64_t step = 0; step < options.num_steps && is_needed; ++step) {
    const FirstPass first = of_steps->first(*copy);
    if (first.prediction.numel() == 0) break;  // an empty batch has no loss
    auto [loss, gradients] = objective(first, rows);
    const at::Tensor goes_on = stopping.goes_on(loss);
    if (goes_on.defined() && !goes_on.any().item<bool>()) break;
    const at::Tensor may_move = samples ? both(result.adapted_samples, goes_on) : at::Tensor();
    const HeldWeights held(may_move, copy->values());
    optimizer.step(std::move(gradients));
    if (options.restore_probability > 0) optimizer.restore(memory.start, options.restore_probability);
    held.enforce();
    objective.follow();
    at::autocast::clear_cache();  // it holds copies of the weights from before
    // A sample that stopped repeats its last loss, and one that never moves has none.
    losses.push_back(
        may_move.defined() ? at::where(may_move, loss, step == 0 ? at::zeros_like(loss) : losses.back()) : loss);
    if (step == 0) unadapted = before.first.defined() ? before.first : first.prediction.detach();
  }

  Answer answer = before;
  if (is_needed) answer = answer_of(*copy, passes, options.prediction, with_details);
  if (is_needed && options.threshold) answer = merge(result.adapted_samples, answer, before, batch_dim);
  result.first = answer.first;
  result.prediction = answer.prediction;
  result.second = answer.second;
  if (losses.empty()) {
    result.losses =
        answer.first.new_empty(samples ? std::vector<std::int64_t>{0, *samples} : std::vector<std::int64_t>{0});
  } else {
    result.losses = at::stack(losses);
    const bool is_kept = keeps_weights && !samples;
    loop.outcome.report =
        report_on(result.losses, answer.prediction, unadapted, is_kept ? copy->values() : std::vector<at::Tensor>{});
    loop.outcome.unadapted = unadapted;
  }
  if (with_details) {
    for (std::size_t i = 0; i < adapted.size(); ++i) result.weights.emplace_back(adapted[i].name, copy->values()[i]);
  }
  memory.optimizer = optimizer.take_state();
  loop.memory = std::move(memory);
  loop.copy = std::move(copy);
  return loop;
}

/// ", as the predictions for samples 1, 3 are not finite" before any step, or the inputs; nothing if all are.
std::string blame_samples(Network& network, const Method& method, const Options& options, const Inputs& inputs) {
  const auto blame = [](std::string_view what, const at::Tensor& non_finite) {
    const bool has_any = non_finite.defined() && non_finite.any().item<bool>();
    return has_any ? c10::str(", as the ", what, " for ", names_of_samples(non_finite), " are not finite") : "";
  };
  const std::string of_predictions =
      blame("predictions", uncertainty(network, method, inputs, options).isfinite().logical_not());
  return of_predictions.empty() ? blame("inputs", non_finite_inputs(inputs, method, /*spares_masks=*/false))
                                : of_predictions;
}

/// Adapts once more, from the start, where the network had collapsed. If that fails, all is as it was before.
Adaptation recover(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online& online,
    bool with_details) {
  const auto parameters = tensors_of(network.parameters());
  std::vector<at::Tensor> weights;
  weights.reserve(parameters.size());
  for (const auto& p : parameters) weights.push_back(p.detach().clone());
  const Online::State state = online.state();
  online.reset(network);
  try {
    Adaptation result = adapt_once(network, method, options, inputs, &online, with_details, nullptr);
    result.recovered = true;
    return result;
  } catch (...) {
    online.go_back(network, state, weights);
    throw;
  }
}

}  // namespace

Adaptation adapt_once(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& given_inputs,
    Online* online,
    bool with_details,
    Graphs* graphs,
    std::optional<std::int64_t> samples) {
  const GradientMode gradient_mode;
  const Inputs inputs = as_constants(given_inputs);
  const auto parameters = network.parameters();
  const auto device = parameters.empty() ? at::kCPU : parameters.front().tensor.device().type();
  const MixedPrecision mixed_precision(options.amp, device);
  const auto adapted =
      options.num_steps > 0 ? select_parameters(parameters, options.parameters) : std::vector<NamedParameter>{};
  const RandomStateGuard random_state(tensors_of(parameters));

  OnlineGuard online_guard(online);
  auto memory =
      online != nullptr && !adapted.empty() ? online->resume(adapted, options.optimizer_name) : Online::Memory{};
  PassInputs pass_inputs(given_inputs, inputs, network.may_write_inputs());
  LoopResult loop;
  std::variant<std::string, GraphKey> key;
  if (graphs != nullptr && device == at::kCUDA && !adapted.empty()) {
    key = graph_key(network, method, options, inputs, with_details, samples);
  }
  if (const auto* known = std::get_if<GraphKey>(&key)) {
    loop.outcome = graphs->cache().run(*known, inputs, [&](const Inputs& static_inputs) {
      PassInputs static_pass_inputs(static_inputs, static_inputs, /*may_be_written=*/false);
      return run(network, adapted, method, options, static_inputs, static_pass_inputs, {}, with_details, with_details,
                 samples)
          .outcome;
    });
  } else {
    loop =
        run(network, adapted, method, options, inputs, pass_inputs, std::move(memory), with_details,
            with_details || online != nullptr, samples);
  }
  Adaptation& result = loop.outcome.result;
  const bool has_moved = result.steps() > 0;

  const std::string problem = what_is_not_finite(loop.outcome);
  std::optional<double> watched;
  if (online != nullptr && options.recovery_factor && has_moved) {
    watched = result.losses[0].item<double>();
    const bool has_collapsed = !problem.empty() || online->has_collapsed(*watched, *options.recovery_factor);
    if (has_collapsed && online->has_moved()) {
      loop.copy.reset();
      online_guard.keep();
      return recover(network, method, options, given_inputs, *online, with_details);
    }
  }
  if (!problem.empty()) {
    loop.copy.reset();
    const std::string cause = samples ? "" : blame_samples(network, method, options, inputs);
    TORCH_CHECK_VALUE(
        false, problem, cause, "; the weights are as they were. ",
        cause.empty() ? "Check the inputs for NaN and infinity, or lower lr, or set max_grad_norm"
                      : "Check these for NaN and infinity, or set threshold, which leaves such samples as they are");
  }
  if (online != nullptr && has_moved) {
    loop.copy->commit();
    loop.copy.reset();
    online->keep(adapted, std::move(loop.memory), watched);
    online_guard.keep();
  }
  loop.copy.reset();
  pass_inputs.finish();
  return std::move(result);
}

}  // namespace it3::detail
