#include "adapt/objective.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "autograd/gradients.h"
#include "method/measured_distance.h"

namespace it3::detail {
namespace {

/// Samples have weights of their own, so that the gradient of the sum is that of each.
at::Tensor total(const at::Tensor& loss) { return loss.dim() == 0 ? loss : loss.sum(); }

}  // namespace

Objective::Objective(
    const Options& options,
    const Method& method,
    const Passes& passes,
    WorkingCopy& copy,
    const Online::CallState& state)
    : options_(options), method_(method), passes_(passes), copy_(copy), state_(state) {}

at::Tensor Objective::loss_of(const at::Tensor& second, const at::Tensor& first, const at::Tensor& rows) const {
  const auto chosen = [&](const at::Tensor& t) {
    return rows.defined() ? t.index_select(method_.prediction_layout.batch_of(t.dim()), rows) : t;
  };
  const at::Tensor distance = measured(method_.distance, &Distance::to_prediction, chosen(second), chosen(first));
  return options_.per_sample ? distance : as_scalar(distance);
}

LossAndGradients Objective::differentiate(
    const at::Tensor& second,
    const at::Tensor& first,
    const at::Tensor& rows,
    const std::vector<at::Tensor>& leaves) const {
  const bool is_plain = copy_.has_plain_graphs();
  if (options_.amp != at::kHalf) {
    const at::Tensor loss = loss_of(second, first, rows);
    return {loss.detach(), gradients_of(total(loss), leaves, is_plain)};
  }
  const std::vector<at::Tensor> predictions = {second.detach().requires_grad_(), first.detach().requires_grad_()};
  const at::Tensor loss = loss_of(predictions[0], predictions[1], rows);
  return {loss.detach(), pull_back({second, first}, gradients_of(total(loss), predictions, is_plain), leaves)};
}

std::vector<at::Tensor> Objective::pull_back(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& by_outputs,
    const std::vector<at::Tensor>& leaves) const {
  const bool is_plain = copy_.has_plain_graphs();
  if (options_.amp != at::kHalf) return gradients_of(outputs[0], leaves, is_plain, by_outputs[0]);
  // On the way through the network the greatest is 1, far from where half precision ends on both sides.
  at::Tensor greatest;
  for (const at::Tensor& g : by_outputs) {
    if (!g.defined()) continue;
    // Samples that do not adapt may have none that is finite, which must not reach the others.
    const at::Tensor size = g.abs().nan_to_num(0, 0, 0).amax();
    greatest = greatest.defined() ? at::maximum(greatest, size) : size;
  }
  greatest = at::where(greatest > 0, greatest, at::ones_like(greatest));
  at::Tensor sum;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!by_outputs[i].defined()) continue;
    const at::Tensor part = (outputs[i] * (by_outputs[i] / greatest)).sum();
    sum = sum.defined() ? sum + part : part;
  }
  std::vector<at::Tensor> gradients = gradients_of(sum, leaves, is_plain);
  for (auto& g : gradients) {
    if (g.defined()) g = g * greatest.to(g.scalar_type());
  }
  return gradients;
}

LossAndGradients Objective::operator()(const FirstPass& first, const at::Tensor& rows) {
  const at::Tensor& prediction = first.prediction;
  if (options_.anchor == AnchorKind::self) {
    return differentiate(passes_.second(copy_, first, prediction), prediction, rows, copy_.leaves());
  }
  if (options_.anchor == AnchorKind::frozen_tail) {
    TORCH_CHECK_VALUE(
        copy_.resumes_behind_layer(),
        "anchor='frozen_tail' is for a network that is cut at its layer, and this one runs whole; explain() says why. "
        "Use anchor='frozen'");
    const at::Tensor second = [&] {
      const auto anchor = copy_.with_constants(state_.start);
      return passes_.second(*anchor, first, prediction);
    }();
    return differentiate(second, prediction, rows, copy_.leaves());
  }
  // By the chain rule in two parts, as the anchor's weights may lie where the network's do: first the loss by y0, which
  // is all that the anchor's pass depends on, then y0 by the network's weights.
  const at::Tensor y0 = prediction.detach().requires_grad_();
  LossAndGradients by_y0;
  {
    const bool is_frozen = options_.anchor == AnchorKind::frozen;
    const auto anchor = copy_.with_constants(is_frozen ? state_.start : state_.average);
    if (!prepared_ || !is_frozen) {
      const at::NoGradGuard no_grad;
      prepared_ = passes_.prepare(*anchor);
    }
    by_y0 = differentiate(passes_.second(*anchor, *prepared_, y0), y0, rows, {y0});
  }
  return {by_y0.loss, pull_back({prediction}, by_y0.gradients, copy_.leaves())};
}

}  // namespace it3::detail
