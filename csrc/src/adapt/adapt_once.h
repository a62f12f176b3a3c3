#pragma once

#include <cstdint>
#include <optional>

#include <it3/adapt.h>

namespace it3::detail {

/// adapt() without Options::per_sample where `samples` is not given; else for so many networks at once, on stacked
/// inputs (see Network::checkout_per_sample()), with results stacked too.
Adaptation adapt_once(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online* online,
    bool with_details,
    Graphs* graphs,
    std::optional<std::int64_t> samples = std::nullopt);

}  // namespace it3::detail
