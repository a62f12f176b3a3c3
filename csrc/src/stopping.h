#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include <ATen/core/Tensor.h>

#include <it3/options.h>

namespace it3::detail {

/// Tells when further steps are no use; see Options::tolerance.
class Stopping {
 public:
  explicit Stopping(const Options& options) : options_(options) {}

  bool is_over(const at::Tensor& loss) {
    if (!options_.tolerance) return false;
    const double value = loss.item<double>();
    const bool is_first = std::isinf(least_);
    const bool is_better = is_first || value < least_ - *options_.tolerance * std::abs(least_);
    waited_ = is_better ? 0 : waited_ + 1;
    least_ = std::fmin(least_, value);
    return waited_ >= options_.patience.value_or(1);
  }

 private:
  const Options& options_;
  double least_ = std::numeric_limits<double>::infinity();
  std::int64_t waited_ = 0;
};

}  // namespace it3::detail
