#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/export.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/normalisation.h>

namespace it3 {

/// ‖y1 − y0‖, the Euclidean norm over all that is not the batch, of each sample: (B,), in float32 or wider.
IT3_API at::Tensor sample_distances(const at::Tensor& second, const at::Tensor& first);

/// sample_distances() of the network as it is, without adapting: larger where it is less sure.
IT3_API at::Tensor uncertainty(
    Network& network, const Method& method, const Inputs& inputs, const Normalisation& normalisation = {});

/// A quantile of the values of some tensors together, interpolated linearly. Raises c10::ValueError for a quantile
/// outside [0, 1], and if there are no values.
IT3_API double quantile_of(const std::vector<at::Tensor>& values, double quantile);

}  // namespace it3
