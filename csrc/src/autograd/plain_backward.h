#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// The gradients of an output by the leaves, without the autograd engine; nothing if the graph needs that, or if
/// use_plain_backward() says so.
///
/// @param gradient  the loss's gradient by the output
std::optional<std::vector<at::Tensor>> plain_backward(
    const at::Tensor& output, const at::Tensor& gradient, const std::vector<at::Tensor>& leaves);

}  // namespace it3::detail
