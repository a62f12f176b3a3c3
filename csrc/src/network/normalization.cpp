#include <it3/backend/normalization.h>

#include <tuple>

#include <ATen/ATen.h>

namespace it3 {
namespace {

constexpr double default_prior = 16;

/// (x - mean) / sqrt(var + eps) * weight + bias, for tensors of any rank and memory layout.
at::Tensor normalize(
    const at::Tensor& x,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const at::Tensor& mean,
    const at::Tensor& var,
    double eps) {
  at::Tensor scale = (var + eps).rsqrt();
  if (weight.defined()) scale = scale * weight;
  at::Tensor shift = -mean * scale;
  if (bias.defined()) shift = shift + bias;
  // The kernel is differentiable by scale and shift, not by the statistics.
  return at::batch_norm(
      x, scale, shift, at::zeros_like(mean), at::ones_like(var), /*training=*/false, /*momentum=*/0, /*eps=*/0,
      at::globalContext().userEnabledCuDNN());
}

}  // namespace

at::Tensor batch_norm(
    const at::Tensor& x,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const at::Tensor& running_mean,
    const at::Tensor& running_var,
    double eps,
    const Normalization& normalization) {
  const auto with = [&](bool batch, const at::Tensor& mean, const at::Tensor& var) {
    return at::batch_norm(
        x, weight, bias, mean, var, /*training=*/batch, /*momentum=*/0, eps, at::globalContext().userEnabledCuDNN());
  };
  const bool has_variance = x.sym_numel() > x.sym_size(1);
  if (normalization.statistics == NormStatistics::running || !has_variance) {
    return with(/*batch=*/false, running_mean, running_var);
  }
  if (normalization.statistics == NormStatistics::batch) return with(/*batch=*/true, {}, {});
  const at::Tensor values = x.transpose(0, 1).flatten(1).to(running_mean.scalar_type());
  const auto [var, mean] = at::var_mean(values, /*dim=*/at::IntArrayRef{1}, /*correction=*/at::Scalar(0));
  const double prior = normalization.prior.value_or(default_prior);
  const c10::SymFloat of_prior = c10::SymFloat(prior) / (c10::SymFloat(prior) + c10::SymFloat(x.sym_size(0)));
  const at::Scalar share = of_prior, rest = c10::SymFloat(1) - of_prior;
  return normalize(x, weight, bias, running_mean * share + mean * rest, running_var * share + var * rest, eps);
}

}  // namespace it3
