#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <it3/backend/layout.h>

namespace it3::detail {

/// The dimension of a prediction's classes or components. Raises c10::ValueError, which says what needs several of them
/// and what to do, if each sample has one number only.
inline std::int64_t class_dim(
    const at::Tensor& prediction, const Layout& layout, std::string_view need, std::string_view advice) {
  const std::int64_t dim = prediction.dim() > 1 ? layout.channel_of(prediction.dim()) : -1;
  TORCH_CHECK_VALUE(dim >= 0, need, ", but a prediction of shape ", prediction.sizes(), " has one class; ", advice);
  TORCH_CHECK_VALUE(
      prediction.sym_size(dim) != 1, need, ", but a prediction of shape ", prediction.sizes(),
      " has one class, in dimension ", dim, "; ", advice, ", or say by prediction_layout where the classes are");
  return dim;
}

}  // namespace it3::detail
