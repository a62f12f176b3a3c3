#pragma once

#include <memory>
#include <vector>

#include <it3/adapt.h>
#include <it3/backend/online.h>
#include <it3/network.h>

#include "cuda_graphs/graph_cache.h"
#include "network/pass_inputs.h"

namespace it3::detail {

/// What the inner loop comes to, and the weights at work.
struct LoopResult {
  LoopOutcome outcome;
  std::unique_ptr<AdaptedWeights> weights;
  Online::CallState state;
};

/// The inner loop: up to `num_steps` optimizer steps on distance(y1, y0), then the answer.
///
/// @param adapted  the parameters that adapt
/// @param inputs  call.inputs, as the passes get them
/// @param state  what earlier calls have kept
LoopResult inner_loop(
    const AdaptCall& call, const std::vector<NamedParameter>& adapted, PassInputs& inputs, Online::CallState state);

}  // namespace it3::detail
