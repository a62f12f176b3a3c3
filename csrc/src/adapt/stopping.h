#pragma once

#include <limits>

#include <ATen/ATen.h>

#include <it3/options.h>

namespace it3::detail {

/// Tells when further steps are no use; see Options::tolerance.
class Stopping {
 public:
  explicit Stopping(const Options& options) : options_(options) {}

  /// Whether to go on, a boolean for each loss; undefined where all always do.
  at::Tensor goes_on(const at::Tensor& loss) {
    if (!options_.tolerance) return {};
    if (!least_.defined()) {
      least_ = at::full_like(loss, std::numeric_limits<double>::infinity());
      waited_ = at::zeros_like(loss, loss.options().dtype(at::kLong));
    }
    const at::Tensor is_better = least_.isinf().logical_or(loss < least_ - *options_.tolerance * least_.abs());
    const at::Tensor is_over = waited_ >= options_.patience.value_or(1);
    waited_ = at::where(is_better.logical_and(is_over.logical_not()), at::zeros_like(waited_), waited_ + 1);
    least_ = at::fmin(least_, loss);
    return waited_ < options_.patience.value_or(1);
  }

 private:
  const Options& options_;
  at::Tensor least_, waited_;
};

}  // namespace it3::detail
