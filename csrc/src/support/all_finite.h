#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

namespace it3::detail {

/// Whether all values are finite, on the host. Of real numbers, the sum tells that in one operation, unless it
/// overflows.
inline bool are_all_finite(const at::Tensor& t) {
  return (!t.is_complex() && std::isfinite(t.sum().item<double>())) || t.isfinite().all().item<bool>();
}

/// Whether all values of all tensors are.
inline bool are_all_finite(const std::vector<at::Tensor>& tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) { return are_all_finite(t); });
}

}  // namespace it3::detail
