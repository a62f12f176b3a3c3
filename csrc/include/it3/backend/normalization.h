#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// Where batch normalization in eval mode takes mean and variance from: the stored running statistics, the batch at
/// hand, or both.
enum class NormStatistics { running, batch, blend };

struct Normalization {
  NormStatistics statistics = NormStatistics::running;

  /// Of "blend": how many samples the running statistics count for, N in (N running + B batch) / (N + B) for a batch of
  /// B (Schneider et al., arXiv 2006.16971). Unset: 16.
  std::optional<double> prior = std::nullopt;

  bool operator==(const Normalization&) const = default;
};

/// Batch normalization in eval mode by the statistics asked for; gradients flow through those of the batch. Where there
/// is one value a channel, which has no variance, the running statistics count alone.
///
/// @param x  (B, C, ...)
/// @param weight, bias  (C), or undefined
/// @param running_mean, running_var  (C), never written to
IT3_API at::Tensor batch_norm(
    const at::Tensor& x,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const at::Tensor& running_mean,
    const at::Tensor& running_var,
    double eps,
    const Normalization& normalization);

}  // namespace it3
