#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// The gradients of a scalar by leaves; undefined for those that it does not depend on. The graph is used up.
///
/// @param is_plain  see WorkingCopy::has_plain_graphs()
/// Raises c10::ValueError if it depends on none of them.
std::vector<at::Tensor> gradients_of(const at::Tensor& loss, const std::vector<at::Tensor>& leaves, bool is_plain);

}  // namespace it3::detail
