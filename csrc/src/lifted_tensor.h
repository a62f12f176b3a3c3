#pragma once

#include <optional>
#include <string>

#include <torch/csrc/jit/api/module.h>

namespace it3::detail {

/// A tensor that a module holds, as an attribute or in a list of tensors, and that became an input of a graph.
struct LiftedTensor {
  torch::jit::Module owner;
  std::string name;
  std::optional<std::size_t> index;  // in a list
  bool is_written = false;           // by an in-place operation, such as a batch normalisation's of its statistics

  at::Tensor get() const {
    const c10::IValue value = owner.attr(name);
    return index ? value.toTensorList().get(*index) : value.toTensor();
  }
};

}  // namespace it3::detail
