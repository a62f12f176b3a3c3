#pragma once

#include <it3/backend/export.h>
#include <it3/backend/inputs.h>
#include <it3/method.h>
#include <it3/network.h>

namespace it3 {

/// Checks that what is injected at the network's layer reaches the prediction. If it does not, y1 equals y0 whatever is
/// fed back, so nothing adapts and an embedder never learns. This happens, for example, when the layer returns several
/// tensors and the network uses another one than the one that is injected into. An Engine checks this at its first
/// call.
///
/// @return  whether the inputs could show it; an empty batch cannot
/// @throws c10::ValueError  if the injection does not reach the prediction
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Method method{
///     .embed = [](const at::Tensor& y0, const at::Tensor&) { return y0.mean(1, true); },
///     .combine = [](const at::Tensor& features, const at::Tensor& embedding) { return features + embedding; },
///     .distance = it3::distance_by_name("mse")};
/// bool could_tell = it3::check_injection(network, method, it3::Inputs(x));
/// assert(could_tell);
/// @endcode
IT3_API bool check_injection(Network& network, const Method& method, const Inputs& inputs);

/// The warning of an engine that adapts although it was never trained.
inline constexpr const char* untrained_warning =
    "this engine was never trained, so adaptation follows noise. Train the model and the embedder together "
    "first: in train mode, engine(inputs, target=y) returns the prediction and the loss term loss_ttt, as "
    "engine.losses() "
    "does in C++. If they were trained elsewhere, set engine.is_trained = True or, in C++, engine.set_trained(true)";

}  // namespace it3
