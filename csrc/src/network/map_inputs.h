#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/inputs.h>

#include "support/map_tensors.h"

namespace it3::detail {

/// The inputs with each tensor in them replaced by what `function` makes of it.
template <typename Function>
Inputs map_tensors(const Inputs& inputs, const Function& function) {
  Inputs mapped(map_tensors(inputs.args, function));
  for (const auto& [name, value] : inputs.kwargs) mapped.kwargs.emplace(name, map_tensors(value, function));
  return mapped;
}

/// The tensors in inputs, in the order of map_tensors().
inline std::vector<at::Tensor> tensors_in(const Inputs& inputs) {
  std::vector<at::Tensor> tensors;
  map_tensors(inputs, [&](const at::Tensor& t) {
    tensors.push_back(t);
    return t;
  });
  return tensors;
}

}  // namespace it3::detail
