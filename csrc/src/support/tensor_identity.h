#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

namespace it3::detail {

/// What tells whether two tensors are the same parameter. A module that was loaded from a file can hold a parameter
/// and, in a list, another tensor over the same memory; but a tensor that sees the same memory in another way, as a
/// transposed one does, or that passes no gradients on, is another one.
struct TensorIdentity {
  const void* memory = nullptr;
  std::int64_t facts = 0;  // dtype and flags
  c10::SmallVector<std::int64_t, 10> sizes_and_strides;

  bool operator==(const TensorIdentity& other) const {
    return memory == other.memory && facts == other.facts && sizes_and_strides == other.sizes_and_strides;
  }
  bool operator<(const TensorIdentity& other) const {
    if (memory != other.memory) return std::less<const void*>()(memory, other.memory);
    if (facts != other.facts) return facts < other.facts;
    return std::lexicographical_compare(
        sizes_and_strides.begin(), sizes_and_strides.end(), other.sizes_and_strides.begin(),
        other.sizes_and_strides.end());
  }
};

inline TensorIdentity identity_of(const at::Tensor& tensor) {
  TensorIdentity identity;
  const bool is_strided = tensor.layout() == at::kStrided;
  // Without elements there is no memory to share.
  const bool has_memory = is_strided && tensor.numel() > 0 && tensor.has_storage();
  identity.memory = has_memory ? tensor.const_data_ptr() : static_cast<const void*>(tensor.unsafeGetTensorImpl());
  identity.facts = 8 * static_cast<std::int64_t>(tensor.scalar_type()) + (tensor.requires_grad() ? 4 : 0) +
                   (tensor.is_conj() ? 2 : 0) + (tensor.is_neg() ? 1 : 0);
  if (!has_memory) return identity;
  for (std::int64_t i = 0; i < tensor.dim(); ++i) {
    identity.sizes_and_strides.push_back(tensor.size(i));
    // Along a dimension of one element it says nothing.
    identity.sizes_and_strides.push_back(tensor.size(i) == 1 ? 0 : tensor.stride(i));
  }
  return identity;
}

}  // namespace it3::detail
