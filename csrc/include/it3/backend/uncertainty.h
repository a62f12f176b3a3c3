#pragma once

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/export.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

/// The network's y0 and y1 as it is, without adapting. The passes are those of adapt() with these options and no steps,
/// or the programs that take their place.
IT3_API Adaptation predict_twice(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

/// Adaptation::uncertainty() of predict_twice(): larger where the network is less sure.
IT3_API at::Tensor uncertainty(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

}  // namespace it3
