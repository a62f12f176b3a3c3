#pragma once

#include <vector>

#include <it3/method.h>
#include <it3/network.h>

namespace it3::detail {

/// The method, whose functions raise c10::ValueError where they compute with a weight that adapts, as an embedder does
/// that shares a weight with the model. For networks that have adapted weights in the model itself meanwhile: those
/// that are cut leave the model alone, so that there the functions get the weights of before.
Method functions_apart(Method method, const std::vector<NamedParameter>& adapted);

}  // namespace it3::detail
