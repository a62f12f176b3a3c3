#pragma once

#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/jit/api/module.h>

namespace it3::detail {

/// The parameters and, behind them, the buffers of a module, under each of their names.
inline std::vector<std::pair<std::string, at::Tensor>> named_tensors(const torch::jit::Module& module) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& parameter : module.named_parameters()) tensors.emplace_back(parameter.name, parameter.value);
  for (const auto& buffer : module.named_buffers()) tensors.emplace_back(buffer.name, buffer.value);
  return tensors;
}

}  // namespace it3::detail
