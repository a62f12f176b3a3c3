#pragma once

#include <vector>

#include <it3/adapt.h>

namespace it3::detail {

/// adapt() without Options::per_sample where AdaptCall::samples is not given; else for so many networks at once, on
/// stacked inputs (see Network::checkout_per_sample()), with results stacked too.
///
/// @param parameters  those of the network
Adaptation adapt_once(const AdaptCall& call, const std::vector<NamedParameter>& parameters);

}  // namespace it3::detail
