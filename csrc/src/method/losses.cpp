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

constexpr double default_probability = 0.5;

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

/// Targets for some samples, or for the whole batch, by chance, and another signal for the others.
at::Tensor drawn(
    const at::Tensor& target, const at::Tensor& other, const TrainingRecipe& recipe, const Layout& prediction_layout) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(target.dim()), 1);
  if (recipe.drawn_for != DrawnFor::batch) {
    const std::int64_t batch = prediction_layout.batch_of(target.dim());
    sizes[static_cast<std::size_t>(batch)] = target.size(batch);
  }
  const at::Tensor draws = at::rand(sizes, target.options().dtype(at::kFloat));
  return at::where(draws < recipe.target_probability.value_or(default_probability), target, other);
}

at::Tensor with_noise(const at::Tensor& signal, double standard_deviation) {
  return standard_deviation > 0 ? signal + standard_deviation * at::randn_like(signal.detach()) : signal;
}

/// What the first pass is fed with: drawn of targets and the neutral signal; undefined where nothing is.
at::Tensor drawn_first(
    const at::Tensor& target, const at::Tensor& neutral, const TrainingRecipe& recipe, const Layout& layout) {
  if (neutral.defined()) return drawn(with_noise(target, recipe.noise), neutral, recipe, layout);
  const bool is_target = at::rand({}).item<double>() < recipe.target_probability.value_or(default_probability);
  return is_target ? with_noise(target, recipe.noise) : at::Tensor();
}

/// What a plain pass predicts, without a trace of it.
at::Tensor plain_prediction(Network& network, PassInputs& inputs) {
  const at::NoGradGuard no_grad;
  return network.checkout({})->predict(inputs.next()).prediction.detach();
}

}  // namespace

Losses training_losses(
    Network& network,
    const Method& given_method,
    const Inputs& given_inputs,
    const std::optional<at::Tensor>& target,
    const TrainingRecipe& recipe,
    bool is_feedback_open) {
  recipe.validate();
  TORCH_CHECK_VALUE(
      !recipe.draws() || target, "the training recipe draws from the targets, but no target was given; give target=");
  TORCH_CHECK_VALUE(
      recipe.first_pass != FirstSignal::drawn || recipe.drawn_for != DrawnFor::sample || is_given(given_method.neutral),
      "drawn_for='sample' needs a neutral signal: without one, nothing is injected where no target is drawn, and the "
      "samples of a batch cannot differ in that; give drawn_for='batch', or a neutral signal");
  const auto turn = network.take_turn();
  PassInputs inputs(given_inputs, given_inputs, network.may_write_inputs());
  Method method = given_method;
  at::Tensor neutral;
  if (is_given(method.neutral)) neutral = detail::neutral_signal(*network.checkout({}), method, inputs);
  const auto fit = [&](const at::Tensor& prediction) {
    const at::Tensor fitted = fit_target(*target, prediction, method.prediction_layout);
    const bool is_one_value = neutral.defined() && std::holds_alternative<at::Tensor>(method.neutral);
    if (is_one_value) detail::check_is_no_label(neutral, fitted, method.prediction_layout);
    return fitted;
  };
  const auto are_classes = [&](const at::Tensor& prediction) {
    return target && are_class_indices(*target, prediction, method.prediction_layout);
  };
  const auto distance = [&](auto function, const at::Tensor& second, const at::Tensor& reference) {
    return detail::as_scalar(detail::measured(method.distance, function, second, reference));
  };
  at::Tensor of_first = neutral;
  if (recipe.first_pass == FirstSignal::drawn) {
    const at::Tensor fitted = fit(neutral.defined() ? neutral : plain_prediction(network, inputs));
    of_first = drawn_first(fitted, neutral, recipe, method.prediction_layout);
  }
  const detail::Passes passes(method, inputs, of_first);
  const FirstPass first = passes.first(network);
  Losses losses{first.prediction, at::zeros({}, first.prediction.options().requires_grad(false))};
  if (recipe.second_pass != SecondPass::none) {
    if (is_feedback_open && recipe.second_pass != SecondPass::target && are_classes(first.prediction)) {
      method.feeds_probabilities = !are_probabilities(first.prediction, method.prediction_layout);
    }
    const at::Tensor fitted = target ? fit(first.prediction) : at::Tensor();
    at::Tensor signal;
    switch (recipe.second_pass) {
      case SecondPass::target: signal = target ? fitted : passes.signal(first.prediction); break;
      case SecondPass::prediction: signal = passes.signal(first.prediction); break;
      case SecondPass::detached_prediction: signal = passes.signal(first.prediction.detach()); break;
      default: signal = drawn(fitted, passes.signal(first.prediction.detach()), recipe, method.prediction_layout);
    }
    const at::Tensor second = passes.with_signal(network, first, with_noise(signal, recipe.noise));
    losses.loss_ttt = target ? distance(&Distance::to_target, second, fitted)
                             : distance(&Distance::to_prediction, second, first.prediction);
    if (recipe.weight != 1) losses.loss_ttt = losses.loss_ttt * recipe.weight;
  }
  losses.has_class_targets = are_classes(losses.prediction);
  inputs.finish();
  return losses;
}

}  // namespace it3
