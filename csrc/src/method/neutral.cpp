#include <it3/neutral.h>

#include "method/neutral.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <it3/backend/losses.h>

#include "support/all_finite.h"

namespace it3 {

namespace {

void check_values(const at::Tensor& values, const char* what) {
  const bool is_real = values.is_floating_point() || at::isIntegralType(values.scalar_type(), /*includeBool=*/false);
  TORCH_CHECK_VALUE(
      is_real && values.numel() > 0, what, ", not a tensor of ", values.scalar_type(), " and shape ", values.sizes());
  TORCH_CHECK_VALUE(detail::are_all_finite(values), "neutral must be finite, but holds NaN or infinity");
}

}  // namespace

bool is_given(const Neutral& neutral) {
  const auto* const value = std::get_if<at::Tensor>(&neutral);
  return value == nullptr || value->defined();
}

void check_neutral(const Neutral& neutral) {
  if (const auto* const value = std::get_if<at::Tensor>(&neutral); value != nullptr && value->defined()) {
    check_values(*value, "neutral must be a number or a tensor of real numbers");
  }
  if (const auto* const drawn = std::get_if<DrawnLabels>(&neutral)) {
    TORCH_CHECK_VALUE(
        drawn->labels.defined() && drawn->labels.dim() > 0,
        "labels to draw from must be a tensor with the labels along its first dimension, (N, ...), not ",
        drawn->labels.defined() ? "a tensor without dimensions" : "an undefined one");
    check_values(drawn->labels, "labels to draw from must be a tensor of real numbers");
  }
  if (const auto* const function = std::get_if<NeutralFunction>(&neutral)) {
    TORCH_CHECK_VALUE(*function != nullptr, "the function of a neutral signal is null");
  }
}

namespace detail {
namespace {

bool are_all(const at::Tensor& conditions) { return conditions.all().item<bool>(); }

bool are_binary(const at::Tensor& values) { return are_all((values == 0).logical_or(values == 1)); }

at::Tensor spread(const at::Tensor& value, const at::Tensor& prediction) {
  const at::Tensor neutral = value.to(prediction.device(), prediction.scalar_type());
  TORCH_CHECK_VALUE(
      at::is_expandable_to(neutral.sym_sizes(), prediction.sym_sizes()), "a neutral signal of shape ", neutral.sizes(),
      " cannot be broadcast to a prediction of shape ", prediction.sizes(),
      "; give a number, or the shape of one sample's prediction");
  return neutral.expand_symint(prediction.sym_sizes());
}

at::Tensor one_hot_like(const at::Tensor& prediction, const Layout& layout) {
  TORCH_CHECK_VALUE(
      prediction.dim() >= 2 && prediction.size(layout.channel_of(prediction.dim())) >= 2,
      "a random one-hot signal is for predictions of two classes or more, not for those of shape ", prediction.sizes());
  const std::int64_t channel = layout.channel_of(prediction.dim());
  std::vector<std::int64_t> sizes = prediction.sizes().vec();
  sizes[static_cast<std::size_t>(channel)] = 1;
  const at::Tensor classes =
      at::randint(prediction.size(channel), sizes, at::TensorOptions(prediction.device()).dtype(at::kLong));
  return at::zeros_like(prediction).scatter(channel, classes, 1);
}

at::Tensor drawn_of(const at::Tensor& labels, const at::Tensor& prediction, const Layout& layout) {
  const std::int64_t batch = layout.batch_of(prediction.dim());
  const auto places =
      at::randint(labels.size(0), {prediction.size(batch)}, at::TensorOptions(labels.device()).dtype(at::kLong));
  at::Tensor drawn = labels.index_select(0, places);
  // Labels have their samples first, predictions have them where the layout says.
  const bool lacks_channels = drawn.dim() + 1 == prediction.dim();
  const bool is_behind_channels = lacks_channels && layout.channel_of(prediction.dim()) < batch;
  if (lacks_channels || drawn.dim() == prediction.dim()) drawn = drawn.movedim(0, batch - (is_behind_channels ? 1 : 0));
  return fit_target(drawn, prediction, layout);
}

at::Tensor signal_like(const at::Tensor& prediction, const Method& method) {
  if (const auto* const value = std::get_if<at::Tensor>(&method.neutral)) return spread(*value, prediction);
  if (const auto* const drawn = std::get_if<DrawnLabels>(&method.neutral)) {
    return drawn_of(drawn->labels, prediction, method.prediction_layout);
  }
  if (const auto* const function = std::get_if<NeutralFunction>(&method.neutral)) {
    const at::Tensor signal = (*function)(prediction);
    TORCH_CHECK_VALUE(signal.defined(), "the function of a neutral signal returned an undefined tensor");
    check_values(signal, "the function of a neutral signal must return real numbers");
    // A tensor that was made in inference mode could not be trained with.
    return spread(signal.is_inference() ? signal.clone() : signal.detach(), prediction);
  }
  return one_hot_like(prediction, method.prediction_layout);
}

/// Of predictions of samples by themselves, (S, ...), each a batch of one.
at::Tensor stacked_signal_like(const at::Tensor& predictions, const Method& method) {
  if (std::holds_alternative<at::Tensor>(method.neutral)) return signal_like(predictions, method);
  const std::int64_t batch = method.prediction_layout.batch_of(predictions.dim() - 1);
  const at::Tensor together = at::cat(predictions.unbind(0), batch);
  return at::stack(signal_like(together, method).split(1, batch), 0);
}

}  // namespace

at::Tensor neutral_signal(TwoPass& network, const Method& method, PassInputs& inputs, bool are_stacked) {
  if (!is_given(method.neutral)) return {};
  const at::NoGradGuard no_grad;
  const at::Tensor prediction = network.predict(inputs.next()).prediction.detach();
  return are_stacked ? stacked_signal_like(prediction, method) : signal_like(prediction, method);
}

void check_is_no_label(const at::Tensor& neutral, const at::Tensor& labels, const Layout& layout) {
  if (labels.numel() == 0) return;
  const std::int64_t channel = labels.dim() < 2 ? -1 : layout.channel_of(labels.dim());
  const auto are_one_hot = [&](const at::Tensor& values) { return are_all(values.sum(channel) == 1); };
  const auto raise = [&](const auto&... which) {
    const double least = neutral.min().item<double>(), most = neutral.max().item<double>();
    TORCH_CHECK_VALUE(
        false, "the neutral signal, ", least == most ? c10::str(least) : c10::str(least, " to ", most), ", ", which...,
        ", so the network could not tell 'no prediction yet' from a prediction; choose one outside of the labels");
  };
  if (are_binary(labels)) {
    const bool is_one_of_several = channel >= 0 && labels.size(channel) > 1 && are_one_hot(labels);
    if (are_binary(neutral) && (!is_one_of_several || are_one_hot(neutral))) raise("is one of the labels");
    return;
  }
  const at::Tensor by_channel = channel < 0 ? labels.reshape({1, -1}) : labels.transpose(0, channel).flatten(1);
  const at::Tensor own = channel < 0 ? neutral.reshape({1, -1}) : neutral.transpose(0, channel).flatten(1);
  const auto [least, most] = at::aminmax(by_channel, /*dim=*/1, /*keepdim=*/true);
  if (are_all((own >= least).logical_and(own <= most))) {
    raise("lies within the range of the labels, ", least.min().item<double>(), " to ", most.max().item<double>());
  }
}

}  // namespace detail
}  // namespace it3
