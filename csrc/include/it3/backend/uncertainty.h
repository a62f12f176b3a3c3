#pragma once

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/export.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

/// y0 and y1 of the network as it is, without adapting: adapt() with these options, no steps and with details.
///
/// @param network  the network
/// @param method  embedder, combination, distance and neutral signal
/// @param inputs  one batch
/// @param options  how passes normalize, and their precision
/// @param compiled  compiled programs that may replace the passes; null for none
/// @throws c10::ValueError  where adapt() without steps does
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Method method{
///     .embed = [](const at::Tensor& y0, const at::Tensor&) { return y0.mean(1, true); },
///     .combine = [](const at::Tensor& features, const at::Tensor& embedding) { return features + embedding; },
///     .distance = it3::distance_by_name("mse")};
/// it3::Adaptation both = it3::predict_twice(network, method, it3::Inputs(x));
/// at::Tensor distances = it3::uncertainty(network, method, it3::Inputs(x));
/// assert(torch::allclose(distances, (both.second - both.first).norm(2, 1)));
/// @endcode
IT3_API Adaptation predict_twice(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

/// Adaptation::uncertainty() of predict_twice(), (B,): larger where the network is less sure. Engine::uncertainty() is
/// this function with the parts that an engine holds.
///
/// @throws c10::ValueError  where predict_twice() does
IT3_API at::Tensor uncertainty(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

}  // namespace it3
