#pragma once

#include <cstddef>
#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// The groups, of two or more, of tensors whose ranges of memory overlap: their places in the list.
std::vector<std::vector<std::size_t>> overlapping(const std::vector<at::Tensor>& tensors);

/// Copies of one such group, which share memory as the tensors do: the same strides, and the same distances.
std::vector<at::Tensor> copies_of_group(const std::vector<at::Tensor>& group);

/// Copies of those tensors that fill a storage on a CUDA device together, which fill one again, in the same places:
/// cuDNN reads the weights of an RNN at once where they lie so, and warns where they do not. Those of others, and of
/// undefined ones, are undefined. The tensors overlap nowhere.
std::vector<at::Tensor> copies_side_by_side(const std::vector<at::Tensor>& tensors);

}  // namespace it3::detail
