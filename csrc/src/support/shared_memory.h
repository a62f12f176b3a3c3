#pragma once

#include <cstddef>
#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// The groups, of two or more, of tensors whose ranges of memory overlap: their places in the list.
std::vector<std::vector<std::size_t>> overlapping(const std::vector<at::Tensor>& tensors);

/// Copies of one such group, which share memory as the tensors do: the same strides, and the same distances.
std::vector<at::Tensor> copies_of_group(const std::vector<at::Tensor>& group);

}  // namespace it3::detail
