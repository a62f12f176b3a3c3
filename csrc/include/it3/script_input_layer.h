#pragma once

#include <cstdint>

#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>

namespace it3 {

/// Puts an InputLayer before a TorchScript module, so that y0 can be fed back at its input: a new module with the given
/// one as its child "model", and the layer as its child "input". Cut a ScriptNetwork at "input" then. Parameters and
/// buffers are shared with the given module.
///
/// @param module  a module whose forward() takes tensors, numbers and lists of them
/// @param extra_channels  see InputLayerImpl; `module` has to take that many more channels than the data have
/// @param channel_dim  the dimension of the input that holds channels, columns or node features
/// @param argument  the argument of forward() that the layer is put before, counted from 0
/// @throws c10::ValueError  if forward() has no such argument, or it is not a tensor
///
/// @code{.cpp}
/// torch::jit::Module scripted = torch::jit::load("model.pt");  // takes (B, 13)
/// torch::jit::Module with_input = it3::with_input_layer(scripted);
/// it3::Engine engine(std::make_shared<it3::ScriptNetwork>(with_input, "input"), {.lr = 1e-4});
/// it3::Losses losses = engine.losses(x, y);
/// at::Tensor prediction = engine.adapt(x).prediction;
/// @endcode
IT3_API torch::jit::Module with_input_layer(
    const torch::jit::Module& module,
    std::int64_t extra_channels = 0,
    std::int64_t channel_dim = 1,
    std::int64_t argument = 0);

}  // namespace it3
