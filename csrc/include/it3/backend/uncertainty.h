#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/export.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

/// ‖y1 − y0‖, the Euclidean norm over all that is not the batch, of each sample: (B,), in float32 or wider.
///
/// @param batch_dim  the dimension of the samples; one sample if the predictions have no dimensions
IT3_API at::Tensor sample_distances(const at::Tensor& second, const at::Tensor& first, std::int64_t batch_dim = 0);

/// The network's y0 and y1 as it is, without adapting. The passes are those of adapt() with these options and no steps,
/// or the programs that take their place.
IT3_API Adaptation predict_twice(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

/// sample_distances() of predict_twice(): larger where the network is less sure.
IT3_API at::Tensor uncertainty(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

}  // namespace it3
