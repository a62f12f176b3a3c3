#pragma once

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// Raises c10::ValueError for a neutral signal, see Method::neutral, that is anything but finite real numbers.
IT3_API void check_neutral(const at::Tensor& neutral);

}  // namespace it3
