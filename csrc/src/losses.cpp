#include <it3/losses.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "two_passes.h"

namespace it3 {
namespace {

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

at::Tensor fit_target(const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout) {
  const auto as_prediction = [&] { return target.to(prediction.device(), prediction.scalar_type()); };
  if (target.sizes() == prediction.sizes()) return as_prediction();
  const bool is_indices = at::isIntegralType(target.scalar_type(), /*includeBool=*/true);
  if (is_indices && prediction.dim() >= 2) {
    const std::int64_t channel = prediction_layout.channel_of(prediction.dim());
    if (prediction.size(channel) > 1 && target.sizes() == without(prediction.sizes(), channel)) {
      return one_hot(target, prediction, channel);
    }
  }
  // (B) for (B, 1) and the like. Broadcasting would compare every sample with every other, silently.
  if (squeezed(target.sizes()) == squeezed(prediction.sizes())) return as_prediction().reshape(prediction.sizes());
  TORCH_CHECK_VALUE(
      false, "a target of shape ", target.sizes(), " and dtype ", target.scalar_type(),
      " does not fit a prediction of shape ", prediction.sizes(),
      "; accepted are the prediction's shape, or integer class indices without its channel dimension");
}

Losses training_losses(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const std::optional<at::Tensor>& target,
    const Layout& prediction_layout) {
  const FirstPass first = network.predict(inputs);
  if (!target) {
    const at::Tensor second = detail::second_pass(network, method, inputs, first, first.prediction);
    return {first.prediction, method.distance.to_prediction(second, first.prediction)};
  }
  const at::Tensor fitted = fit_target(*target, first.prediction, prediction_layout);
  const at::Tensor second = detail::second_pass(network, method, inputs, first, fitted);
  return {first.prediction, method.distance.to_target(second, fitted)};
}

}  // namespace it3
