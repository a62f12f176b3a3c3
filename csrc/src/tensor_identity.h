#pragma once

#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// What tells whether two tensors are the same parameter. A module that was loaded from a file can hold a parameter
/// and, in a list, another tensor over the same memory.
using TensorIdentity = std::pair<const void*, std::vector<std::int64_t>>;

inline TensorIdentity identity_of(const at::Tensor& tensor) { return {tensor.const_data_ptr(), tensor.sizes().vec()}; }

}  // namespace it3::detail
