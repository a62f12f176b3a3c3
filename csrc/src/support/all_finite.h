#pragma once

#include <cmath>

#include <ATen/ATen.h>

namespace it3::detail {

/// Whether all values are finite, on the host. Of real numbers, the sum tells that in one operation, unless it
/// overflows.
inline bool are_all_finite(const at::Tensor& t) {
  return (!t.is_complex() && std::isfinite(t.sum().item<double>())) || t.isfinite().all().item<bool>();
}

}  // namespace it3::detail
