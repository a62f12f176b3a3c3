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

#include "gradients.h"
#include "random_state_guard.h"
#include "two_passes.h"

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

at::Tensor scalar_loss(const at::Tensor& distance) {
  TORCH_CHECK_VALUE(
      distance.numel() == 1, "distance_fn must return a scalar, not a tensor of shape ", distance.sizes(),
      "; reduce it, by .mean() for example");
  return distance.reshape({});
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

/// One synchronisation a call, after the loop, so that the loop itself never waits for a device.
void check_finite(const at::Tensor& losses, const at::Tensor& prediction, const at::Tensor& unadapted) {
  if (prediction.numel() == 0 || is_finite(at::cat({losses, extremes(prediction)}))) return;
  const bool losses_are_finite = is_finite(losses);
  if (losses_are_finite && !is_finite(extremes(unadapted))) return;  // the model predicts such values by itself
  std::string what = "the adapted prediction is not finite";
  for (std::int64_t step = 0; step < losses.size(0) && !losses_are_finite; ++step) {
    const double loss = losses[step].item<double>();
    if (std::isfinite(loss)) continue;
    what =
        c10::str("the loss at step ", step + 1, " of ", losses.size(0), " is ", std::isnan(loss) ? "nan" : "infinite");
    break;
  }
  TORCH_CHECK_VALUE(
      false, what,
      "; the weights are as they were. Check the inputs for NaN and infinity, or lower lr, or set max_grad_norm");
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
  const bool adapts = options.num_steps > 0;
  const auto adapted = adapts ? select_parameters(parameters, options.parameters) : std::vector<NamedParameter>{};
  const detail::RandomStateGuard random_state(tensors_of(parameters));

  OptimizerState state = online != nullptr ? online->resume(adapted, options.optimizer_name) : OptimizerState{};
  auto copy = network.checkout(adapted);
  Optimizer optimizer(options, copy->values(), std::move(state));

  at::Tensor unadapted;
  std::vector<at::Tensor> losses;
  for (std::int64_t step = 0; step < options.num_steps; ++step) {
    const FirstPass first = copy->predict(inputs);
    const at::Tensor second = detail::second_pass(*copy, method, inputs, first, first.prediction);
    const at::Tensor loss = scalar_loss(method.distance.to_prediction(second, first.prediction));
    optimizer.step(detail::gradients_of(loss, copy->leaves(), copy->has_plain_graphs()));
    at::autocast::clear_cache();
    losses.push_back(loss.detach());
    if (step == 0) unadapted = first.prediction.detach();
  }

  const at::NoGradGuard no_grad;
  Adaptation result;
  const FirstPass first = copy->predict(inputs);
  result.prediction = first.prediction.detach();
  if (with_second) result.second = detail::second_pass(*copy, method, inputs, first, first.prediction).detach();
  result.losses = adapts ? at::stack(losses) : at::empty({0}, result.prediction.options());
  if (adapts) check_finite(result.losses, result.prediction, unadapted);
  for (std::size_t i = 0; i < adapted.size(); ++i) result.weights.emplace_back(adapted[i].name, copy->values()[i]);
  if (online != nullptr && adapts) {
    copy->commit();
    copy.reset();
    online->keep(adapted, optimizer.take_state());
  }
  return result;
}

at::Tensor sample_distances(const at::Tensor& second, const at::Tensor& first) {
  at::Tensor difference = second - first;
  if (at::isReducedFloatingType(difference.scalar_type())) difference = difference.to(at::kFloat);
  if (difference.dim() == 0) difference = difference.unsqueeze(0);
  return difference.reshape({difference.size(0), -1}).norm(2, 1);
}

at::Tensor uncertainty(Network& network, const Method& method, const Inputs& inputs) {
  const GradientMode gradient_mode;
  const at::NoGradGuard no_grad;
  const detail::RandomStateGuard random_state(tensors_of(network.parameters()));
  const auto copy = network.checkout({});
  const FirstPass first = copy->predict(inputs);
  const at::Tensor second = detail::second_pass(*copy, method, inputs, first, first.prediction);
  return sample_distances(second, first.prediction).detach();
}

}  // namespace it3
