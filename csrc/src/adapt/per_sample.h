#pragma once

#include <vector>

#include <it3/adapt.h>

namespace it3::detail {

/// adapt() with Options::per_sample: each sample as if it were adapted alone.
///
/// @param parameters  those of the network
Adaptation adapt_per_sample(const AdaptCall& call, const std::vector<NamedParameter>& parameters);

}  // namespace it3::detail
