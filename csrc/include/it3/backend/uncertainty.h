#pragma once

#include <cstdint>
#include <vector>

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

/// sample_distances() of the network as it is, without adapting: larger where it is less sure. The passes are those of
/// adapt() with these options and no steps, or the programs that take their place.
IT3_API at::Tensor uncertainty(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const Options& options = {},
    const CompiledKinds* compiled = nullptr);

/// A quantile of the values of some tensors together, interpolated linearly. Raises c10::ValueError for a quantile
/// outside [0, 1]; if there are no values; and if some are not finite, naming the samples.
IT3_API double quantile_of(const std::vector<at::Tensor>& values, double quantile);

}  // namespace it3
