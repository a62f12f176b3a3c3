#pragma once

#include <torch/csrc/jit/api/module.h>

#include "support/tensor_memory.h"

namespace it3::detail {

/// A module with copies of all tensors, which share memory with one another where the module's own do.
struct ScriptModuleCopy {
  explicit ScriptModuleCopy(const torch::jit::Module& of);

  MemoryCopies copies;  // of the module's own tensors
  torch::jit::Module module;
};

}  // namespace it3::detail
