#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/inputs.h>
#include <it3/method.h>

#include "cuda_graphs/graph_cache.h"

namespace it3::detail {

/// The losses, and two numbers for each of the predictions after and before, which are finite if all their values are:
/// all that is looked at when the work is done, in one tensor, so that a device is waited for once.
///
/// @param weights  those that the caller will keep, for which there is one such number more
at::Tensor report_on(
    const at::Tensor& losses,
    const at::Tensor& prediction,
    const at::Tensor& unadapted,
    const std::vector<at::Tensor>& weights);

/// What of the outcome is not finite, for people; nothing if all is.
///
/// @param first_sample  see AdaptCall
std::string what_is_not_finite(const LoopOutcome& outcome, std::int64_t first_sample);

/// ", as the predictions for samples 1, 3 are not finite" before any step, or the inputs; nothing if all are.
std::string blame_samples(const AdaptCall& call);

/// Which samples have inputs that are not finite, (B,) of booleans; undefined where it is not clear what they are.
at::Tensor non_finite_inputs(const Inputs& inputs, const Method& method, bool spares_masks);

}  // namespace it3::detail
