#pragma once

#include <cstdint>

#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>

namespace it3 {

/// A TorchScript module around another one, its child "model", with an InputLayer, "input", before it: a ScriptNetwork
/// is cut at "input" then. Parameters and buffers are the other one's own.
///
/// @param argument  which of forward()'s arguments the layer takes, counted from 0
/// Raises c10::ValueError for an argument that forward() does not have, or that is no tensor.
IT3_API torch::jit::Module with_input_layer(
    const torch::jit::Module& module,
    std::int64_t extra_channels = 0,
    std::int64_t channel_dim = 1,
    std::int64_t argument = 0);

}  // namespace it3
