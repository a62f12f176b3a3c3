#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// Writes values into tensors of the same shapes, all or none: where one cannot be written, those before it get back
/// what they had. Writes count as one of torch's operators does; see write_count.h.
void write_all(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& values);

}  // namespace it3::detail
