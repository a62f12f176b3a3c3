#pragma once

#include <ATen/core/Tensor.h>

#include <it3/method.h>

namespace it3::detail {

/// A distance without dimensions. Raises c10::ValueError if it has several elements.
at::Tensor as_scalar(const at::Tensor& distance);

/// What one of a distance's functions says. One of the user's, which may write to what it is given, is given copies.
at::Tensor measured(
    const Distance& distance,
    DistanceFunction Distance::* function,
    const at::Tensor& second,
    const at::Tensor& reference);

}  // namespace it3::detail
