#pragma once

#include <ATen/ATen.h>

namespace it3::detail {

/// A complex tensor as a view of real and imaginary parts; a real one as it is.
inline at::Tensor as_real(const at::Tensor& t) { return t.is_complex() ? at::view_as_real(t) : t; }

}  // namespace it3::detail
