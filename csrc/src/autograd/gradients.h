#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// The gradients of an output by the leaves: undefined where it does not depend on one. Raises c10::ValueError if it
/// depends on none.
///
/// @param is_plain  see WorkingCopy::has_plain_graphs()
/// @param gradient  the loss's gradient by the output; undefined for an output that is the loss, a scalar
std::vector<at::Tensor> gradients_of(
    const at::Tensor& output, const std::vector<at::Tensor>& leaves, bool is_plain, const at::Tensor& gradient = {});

}  // namespace it3::detail
