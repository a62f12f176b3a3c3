#include <it3/backend/neutral.h>

#include "method/neutral.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "support/all_finite.h"

namespace it3 {

void check_neutral(const at::Tensor& neutral) {
  if (!neutral.defined()) return;
  const bool is_real = neutral.is_floating_point() || at::isIntegralType(neutral.scalar_type(), /*includeBool=*/false);
  TORCH_CHECK_VALUE(
      is_real && neutral.numel() > 0, "neutral must be a number or a tensor of real numbers, not a tensor of ",
      neutral.scalar_type(), " and shape ", neutral.sizes());
  TORCH_CHECK_VALUE(detail::are_all_finite(neutral), "neutral must be finite, but holds NaN or infinity");
}

namespace detail {
namespace {

bool are_all(const at::Tensor& conditions) { return conditions.all().item<bool>(); }

bool are_binary(const at::Tensor& values) { return are_all((values == 0).logical_or(values == 1)); }

}  // namespace

at::Tensor neutral_signal(TwoPass& network, const Method& method, PassInputs& inputs) {
  if (!method.neutral.defined()) return {};
  const at::NoGradGuard no_grad;
  const at::Tensor prediction = network.predict(inputs.next()).prediction.detach();
  const at::Tensor neutral = method.neutral.to(prediction.device(), prediction.scalar_type());
  TORCH_CHECK_VALUE(
      at::is_expandable_to(neutral.sym_sizes(), prediction.sym_sizes()), "a neutral signal of shape ", neutral.sizes(),
      " cannot be broadcast to a prediction of shape ", prediction.sizes(),
      "; give a number, or the shape of one sample's prediction");
  return neutral.expand_symint(prediction.sym_sizes());
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
