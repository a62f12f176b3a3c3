#pragma once

#include <memory>
#include <vector>

#include <it3/adapt.h>
#include <it3/backend/online.h>
#include <it3/network.h>

#include "adapt/evaluation.h"
#include "network/pass_inputs.h"

namespace it3::detail {

/// The weights of one call, and what evaluates the network by them.
struct AtWork {
  std::unique_ptr<AdaptedWeights> weights;
  std::unique_ptr<Evaluation> evaluation;
};

/// Compiled programs where such a call has any that are right and, if they are measured, faster; else the network's
/// passes.
///
/// @param adapted  the parameters that adapt
/// @param inputs  call.inputs, as the passes get them
/// @param state  gets what the anchor needs
AtWork at_work(
    const AdaptCall& call, const std::vector<NamedParameter>& adapted, PassInputs& inputs, Online::CallState& state);

}  // namespace it3::detail
