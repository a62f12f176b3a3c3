#pragma once

#include <it3/adapt.h>

namespace it3::detail {

/// adapt() with Options::per_sample: each sample as if it were adapted alone.
Adaptation adapt_each(
    Network& network, const Method& method, const Options& options, const Inputs& inputs, bool in_full, Graphs* graphs);

}  // namespace it3::detail
