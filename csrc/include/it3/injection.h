#pragma once

#include <it3/backend/export.h>
#include <it3/backend/inputs.h>
#include <it3/method.h>
#include <it3/network.h>

namespace it3 {

/// Raises c10::ValueError if what is injected at the network's layer does not reach its prediction: then y1 is y0
/// whatever is fed back, nothing adapts, and an embedder never learns. Such is a layer of several outputs of which the
/// network goes on with another one than that injected into.
///
/// Returns whether the inputs could tell; an empty batch cannot.
IT3_API bool check_injection(Network& network, const Method& method, const Inputs& inputs);

/// What users are told about an engine whose embedder was never trained.
inline constexpr const char* untrained_warning =
    "this engine's embedder was never trained, so that adaptation follows noise: IT3 needs its own training of the "
    "model "
    "and the embedder, by the losses of the engine in train mode. If the embedder was trained elsewhere, set "
    "is_trained";

}  // namespace it3
