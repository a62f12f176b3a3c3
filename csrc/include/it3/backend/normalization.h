#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// The mean and variance that batch normalization in eval mode normalizes by.
///
/// - running: the stored running statistics.
/// - batch: the statistics of the batch at hand.
/// - blend: a weighted mean of both; see Normalization::prior.
enum class NormStatistics { running, batch, blend };

/// How batch normalization in eval mode normalizes.
struct Normalization {
  /// Which statistics to use.
  NormStatistics statistics = NormStatistics::running;

  /// For NormStatistics::blend, the number of samples N that the running statistics count as: for a batch of B samples
  /// the statistics are (N running + B batch) / (N + B) (Schneider et al., arXiv 2006.16971). Unset: 16.
  std::optional<double> prior = std::nullopt;

  /// Whether both parts are equal.
  bool operator==(const Normalization&) const = default;
};

/// Batch normalization in eval mode. Gradients flow through the statistics of the batch. If each channel has only one
/// value, and so no variance, the running statistics are used alone.
///
/// @param x  (B, C, ...)
/// @param weight  (C), or undefined for 1
/// @param bias  (C), or undefined for 0
/// @param running_mean  (C), never written to
/// @param running_var  (C), never written to
/// @param eps  added to the variance
/// @param normalization  which statistics to use
///
/// @code{.cpp}
/// at::Tensor images = torch::randn({16, 3, 4, 4}) + 2, mean = torch::zeros(3), variance = torch::ones(3);
/// it3::Normalization blend{.statistics = it3::NormStatistics::blend, .prior = 16.0};
/// at::Tensor normalized = it3::batch_norm(images, {}, {}, mean, variance, 1e-5, blend);
/// std::cout << normalized.mean().item<double>() << '\n';  // about 1: half of the shift by 2 remains
/// @endcode
IT3_API at::Tensor batch_norm(
    const at::Tensor& x,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const at::Tensor& running_mean,
    const at::Tensor& running_var,
    double eps,
    const Normalization& normalization);

}  // namespace it3
