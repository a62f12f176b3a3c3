#include <it3/backend/losses.h>

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "method/measured_distance.h"
#include "method/neutral.h"
#include "method/passes.h"
#include "network/pass_inputs.h"

namespace it3 {
namespace {

using detail::PassInputs;

std::vector<std::int64_t> without(at::IntArrayRef sizes, std::int64_t dim) {
  std::vector<std::int64_t> rest = sizes.vec();
  rest.erase(rest.begin() + dim);
  return rest;
}

std::vector<std::int64_t> squeezed(at::IntArrayRef sizes) {
  std::vector<std::int64_t> rest;
  std::copy_if(sizes.begin(), sizes.end(), std::back_inserter(rest), [](std::int64_t size) { return size != 1; });
  return rest;
}

at::Tensor one_hot(const at::Tensor& classes, const at::Tensor& prediction, std::int64_t channel) {
  const std::int64_t count = prediction.size(channel);
  const auto [least, most] = at::aminmax(classes);
  TORCH_CHECK_VALUE(
      least.item<std::int64_t>() >= 0 && most.item<std::int64_t>() < count, "target has class indices from ",
      least.item<std::int64_t>(), " to ", most.item<std::int64_t>(), ", but a prediction of shape ", prediction.sizes(),
      " has the classes 0 to ", count - 1);
  const at::Tensor index = classes.to(prediction.device(), at::kLong).unsqueeze(channel);
  return at::zeros_like(prediction, prediction.options().requires_grad(false)).scatter(channel, index, 1);
}

}  // namespace

bool are_class_indices(const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout) {
  if (target.sizes() == prediction.sizes() || prediction.dim() < 2) return false;
  const std::int64_t channel = prediction_layout.channel_of(prediction.dim());
  return at::isIntegralType(target.scalar_type(), /*includeBool=*/true) && prediction.size(channel) > 1 &&
         target.sizes() == without(prediction.sizes(), channel);
}

at::Tensor fit_target(const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout) {
  const auto as_prediction = [&] { return target.to(prediction.device(), prediction.scalar_type()); };
  if (target.sizes() == prediction.sizes()) return as_prediction();
  if (are_class_indices(target, prediction, prediction_layout)) {
    return one_hot(target, prediction, prediction_layout.channel_of(prediction.dim()));
  }
  // (B) for (B, 1) and the like. Broadcasting would compare every sample with every other, silently.
  if (squeezed(target.sizes()) == squeezed(prediction.sizes())) return as_prediction().reshape(prediction.sizes());
  TORCH_CHECK_VALUE(
      false, "a target of shape ", target.sizes(), " and dtype ", target.scalar_type(),
      " does not fit a prediction of shape ", prediction.sizes(),
      "; accepted are the prediction's shape, or integer class indices without its channel dimension");
}

namespace {

/// One pass with a drawn signal, for ZigZag's loss in one term.
Losses drawn_losses(
    Network& network,
    const Method& method,
    PassInputs& inputs,
    const at::Tensor& target,
    const at::Tensor& neutral,
    double probability) {
  at::Tensor signal = target;
  if (neutral.defined()) {
    const std::int64_t batch = method.prediction_layout.batch_of(target.dim());
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(target.dim()), 1);
    sizes[static_cast<std::size_t>(batch)] = target.size(batch);
    signal = at::where(at::rand(sizes, target.options().dtype(at::kFloat)) < probability, target, neutral);
  }
  const bool is_injected = neutral.defined() || at::rand({}).item<double>() < probability;
  const Inject inject = detail::injection(method, signal);
  const at::Tensor prediction = network.predict(inputs.next(), is_injected ? &inject : nullptr).prediction;
  return {prediction, at::zeros({}, prediction.options().requires_grad(false))};
}

/// What a plain pass predicts, without a trace of it.
at::Tensor plain_prediction(Network& network, PassInputs& inputs) {
  const at::NoGradGuard no_grad;
  return network.checkout({})->predict(inputs.next()).prediction.detach();
}

}  // namespace

Losses training_losses(
    Network& network,
    const Method& method,
    const Inputs& given_inputs,
    const std::optional<at::Tensor>& target,
    std::optional<double> target_probability) {
  TORCH_CHECK_VALUE(
      !target_probability || (*target_probability >= 0 && *target_probability <= 1),
      "target_probability must be a number from 0 to 1, or None, not ", *target_probability);
  TORCH_CHECK_VALUE(
      !target_probability || target, "target_probability draws from the targets, but none was given; give target=");
  const auto turn = network.take_turn();
  PassInputs inputs(given_inputs, given_inputs, network.may_write_inputs());
  at::Tensor neutral;
  if (method.neutral.defined()) neutral = detail::neutral_signal(*network.checkout({}), method, inputs);
  const auto fit = [&](const at::Tensor& prediction) {
    const at::Tensor fitted = fit_target(*target, prediction, method.prediction_layout);
    if (neutral.defined()) detail::check_is_no_label(neutral, fitted, method.prediction_layout);
    return fitted;
  };
  const auto distance = [&](auto function, const at::Tensor& second, const at::Tensor& reference) {
    return detail::as_scalar(detail::measured(method.distance, function, second, reference));
  };
  Losses losses;
  if (target_probability) {
    const at::Tensor fitted = fit(neutral.defined() ? neutral : plain_prediction(network, inputs));
    losses = drawn_losses(network, method, inputs, fitted, neutral, *target_probability);
  } else {
    const detail::Passes passes(method, inputs, neutral);
    const FirstPass first = passes.first(network);
    losses.prediction = first.prediction;
    if (target) {
      const at::Tensor fitted = fit(first.prediction);
      losses.loss_ttt = distance(&Distance::to_target, passes.with_signal(network, first, fitted), fitted);
    } else {
      const at::Tensor second = passes.second(network, first, first.prediction);
      losses.loss_ttt = distance(&Distance::to_prediction, second, first.prediction);
    }
  }
  losses.has_class_targets = target && are_class_indices(*target, losses.prediction, method.prediction_layout);
  inputs.finish();
  return losses;
}

}  // namespace it3
