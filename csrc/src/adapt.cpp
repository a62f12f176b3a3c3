#include <it3/adapt.h>

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <it3/optimizer.h>
#include <it3/selection.h>
#include <it3/uncertainty.h>

#include "answer.h"
#include "neutral.h"
#include "objective.h"
#include "passes.h"
#include "random_state_guard.h"
#include "stopping.h"

namespace it3 {
namespace {

/// Adaptation differentiates, whatever mode the caller is in.
struct GradientMode {
  c10::InferenceMode no_inference{false};
  at::AutoGradMode with_gradients{true};
};

/// Autocast caches half-precision copies of weights. They are out of date whenever weights change, at both ends of a
/// transaction too.
struct FreshAutocastCache {
  FreshAutocastCache() { at::autocast::clear_cache(); }
  ~FreshAutocastCache() { at::autocast::clear_cache(); }
};

std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  copies.reserve(tensors.size());
  for (const auto& t : tensors) copies.push_back(t.clone());
  return copies;
}

/// The least and the greatest element; NaN if there is one.
at::Tensor extremes(const at::Tensor& t) {
  const at::Tensor real = t.is_complex() ? at::view_as_real(t) : t;
  const auto [least, greatest] = at::aminmax(real);
  return at::stack({least, greatest});
}

bool is_finite(const at::Tensor& values) {
  const at::Tensor on_cpu = values.to(at::kCPU, at::kDouble).contiguous();
  const double* const begin = on_cpu.const_data_ptr<double>();
  return std::all_of(begin, begin + on_cpu.numel(), [](double value) { return std::isfinite(value); });
}

/// What is not finite, for people; nothing if all is. One synchronisation a call, after the loop, so that the loop
/// itself never waits for a device.
std::string what_is_not_finite(const at::Tensor& losses, const at::Tensor& prediction, const at::Tensor& unadapted) {
  if (prediction.numel() == 0 || is_finite(at::cat({losses, extremes(prediction)}))) return "";
  for (std::int64_t step = 0; step < losses.size(0); ++step) {
    const double loss = losses[step].item<double>();
    if (std::isfinite(loss)) continue;
    return c10::str(
        "the loss at step ", step + 1, " of ", losses.size(0), " is ", std::isnan(loss) ? "nan" : "infinite");
  }
  if (!is_finite(extremes(unadapted))) return "";  // the model predicts such values by itself
  return "the adapted prediction is not finite";
}

/// The adapted answer for the samples that adapted, and the one from before for the others.
detail::Answer merge(const at::Tensor& adapted_samples, const detail::Answer& adapted, const detail::Answer& before) {
  const auto chosen = [&](const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() || a.dim() == 0) return a;
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(a.dim()), 1);
    sizes[0] = a.size(0);
    return at::where(adapted_samples.view(sizes), a, b);
  };
  return {
      chosen(adapted.first, before.first), chosen(adapted.second, before.second),
      chosen(adapted.prediction, before.prediction)};
}

}  // namespace

at::Tensor Adaptation::loss() const { return steps() == 0 ? at::zeros({}, losses.options()) : losses[steps() - 1]; }

Adaptation adapt(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& given_inputs,
    Online* online,
    bool with_second) {
  options.validate();
  const GradientMode gradient_mode;
  const Inputs inputs = without_inference_tensors(given_inputs);
  const FreshAutocastCache fresh_cache;

  const auto parameters = network.parameters();
  const auto adapted =
      options.num_steps > 0 ? select_parameters(parameters, options.parameters) : std::vector<NamedParameter>{};
  const detail::RandomStateGuard random_state(tensors_of(parameters));

  auto memory =
      online != nullptr && !adapted.empty() ? online->resume(adapted, options.optimizer_name) : Online::Memory{};
  auto copy = network.checkout(adapted, options.normalisation);
  const bool needs_start = options.anchor != AnchorName::none || options.restore_probability > 0;
  if (needs_start && memory.start.empty()) memory.start = copies_of(copy->values());

  detail::Passes passes(method, inputs, detail::neutral_signal(*copy, method, inputs));
  if (!adapted.empty() && copy->has_fixed_head()) passes.fix_head(*copy);
  detail::Answer before;
  Adaptation result;
  at::Tensor rows;
  if (options.threshold) {
    before = detail::answer_of(*copy, passes, options.prediction, /*with_second=*/true);
    result.adapted_samples = sample_distances(before.second, before.first) > *options.threshold;
    rows = result.adapted_samples.nonzero().flatten();
  }
  const bool is_needed = !rows.defined() || rows.numel() > 0;

  detail::Objective objective(options, method, passes, *copy, memory);
  Optimizer optimizer(options, copy->values(), std::move(memory.optimizer));
  detail::Stopping stopping(options);
  at::Tensor unadapted;
  std::vector<at::Tensor> losses;
  for (std::int64_t step = 0; step < options.num_steps && is_needed; ++step) {
    const FirstPass first = passes.first(*copy);
    auto [loss, gradients] = objective(first, rows);
    if (stopping.is_over(loss)) break;
    optimizer.step(std::move(gradients));
    if (options.restore_probability > 0) optimizer.restore(memory.start, options.restore_probability);
    objective.follow();
    at::autocast::clear_cache();
    losses.push_back(loss);
    if (step == 0) unadapted = first.prediction.detach();
  }

  detail::Answer answer = before;
  if (is_needed) answer = detail::answer_of(*copy, passes, options.prediction, with_second);
  if (is_needed && rows.defined()) answer = merge(result.adapted_samples, answer, before);
  const bool has_moved = !losses.empty();
  result.first = answer.first;
  result.prediction = answer.prediction;
  result.second = answer.second;
  result.losses = has_moved ? at::stack(losses) : at::empty({0}, answer.first.options());
  for (std::size_t i = 0; i < adapted.size(); ++i) result.weights.emplace_back(adapted[i].name, copy->values()[i]);

  const std::string problem = has_moved ? what_is_not_finite(result.losses, result.prediction, unadapted) : "";
  std::optional<double> watched;
  if (online != nullptr && options.recovery_factor && has_moved) {
    watched = losses[0].item<double>();
    const bool has_collapsed = !problem.empty() || online->has_collapsed(*watched, *options.recovery_factor);
    if (has_collapsed && online->has_moved()) {
      copy.reset();
      online->reset(network);
      result = adapt(network, method, options, inputs, online, with_second);
      result.recovered = true;
      return result;
    }
  }
  TORCH_CHECK_VALUE(
      problem.empty(), problem,
      "; the weights are as they were. Check the inputs for NaN and infinity, or lower lr, or set max_grad_norm");
  if (online != nullptr && has_moved) {
    copy->commit();
    copy.reset();
    memory.optimizer = optimizer.take_state();
    online->keep(adapted, std::move(memory), watched);
  }
  return result;
}

}  // namespace it3
