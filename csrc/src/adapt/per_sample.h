#pragma once

#include <it3/adapt.h>

namespace it3::detail {

/// adapt() with Options::per_sample: each sample as if it were adapted alone.
Adaptation adapt_per_sample(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    bool with_details,
    Graphs* graphs);

}  // namespace it3::detail
