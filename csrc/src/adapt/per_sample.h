#pragma once

#include <vector>

#include <it3/adapt.h>

namespace it3::detail {

/// The method on stacked tensors. Embeddings and combinations are made inside of a network's passes, where features are
/// those of one sample.
Method stacked(const Method& method);

/// adapt() with Options::per_sample: each sample as if it were adapted alone.
///
/// @param parameters  those of the network
Adaptation adapt_per_sample(const AdaptCall& call, const std::vector<NamedParameter>& parameters);

}  // namespace it3::detail
