#pragma once

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

namespace it3::detail {

/// Whether a tensor's values lie one behind the other in the CPU's memory, so that they can be read past the
/// dispatcher.
inline bool is_plain(const at::Tensor& t) { return t.is_cpu() && t.is_contiguous() && !t.is_conj() && !t.is_neg(); }

/// Tensors in the shapes and memory layouts of others, over one block of memory that has as many elements. They are
/// made without the dispatcher, because a small network's step would otherwise spend more time on them than on
/// arithmetic.
inline std::vector<at::Tensor> views_like(const std::vector<at::Tensor>& tensors, const at::Tensor& block) {
  std::vector<at::Tensor> views;
  views.reserve(tensors.size());
  std::int64_t offset = 0;
  for (const at::Tensor& t : tensors) {
    views.push_back(
        at::detail::make_tensor<at::TensorImpl>(
            c10::TensorImpl::VIEW, c10::Storage(block.storage()), block.key_set(), block.dtype()));
    views.back().unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), offset);
    offset += t.numel();
  }
  return views;
}

inline std::int64_t elements_of(const std::vector<at::Tensor>& tensors) {
  std::int64_t total = 0;
  for (const at::Tensor& t : tensors) total += t.numel();
  return total;
}

}  // namespace it3::detail
