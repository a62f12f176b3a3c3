#pragma once

#include <ATen/core/stack.h>
#include <torch/csrc/jit/runtime/interpreter.h>

namespace it3::detail {

/// Runs code by the plain interpreter. What it raises says what went wrong, without the calls in TorchScript's code
/// that led to it.
void run_code(const torch::jit::Code& code, torch::jit::Stack& stack);

}  // namespace it3::detail
