#pragma once

#include <it3/backend/export.h>
#include <it3/backend/inputs.h>
#include <it3/method.h>
#include <it3/network.h>

namespace it3 {

/// Raises c10::ValueError if what is injected at the network's layer does not reach its prediction: then y1 is y0
/// whatever is fed back, nothing adapts, and an embedder never learns. This happens, for example, when the layer
/// returns several tensors and the network uses another one than that injected into.
///
/// Returns whether the inputs could tell; an empty batch cannot.
IT3_API bool check_injection(Network& network, const Method& method, const Inputs& inputs);

/// What users are told about an engine that was never trained.
inline constexpr const char* untrained_warning =
    "this engine was never trained, so adaptation follows noise. Train the model and the embedder together "
    "first: in train mode, engine(inputs, target=y) returns the prediction and the loss term loss_ttt, as "
    "engine.losses() "
    "does in C++. If they were trained elsewhere, set engine.is_trained = True or, in C++, engine.set_trained(true)";

}  // namespace it3
