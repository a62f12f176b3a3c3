#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <it3/normalisation.h>

namespace it3::detail {

/// Makes a graph's batch normalisation in eval mode use other statistics. Raises c10::ValueError if it has none with
/// running statistics.
void set_normalisation(torch::jit::Graph& graph, const Normalisation& normalisation);

}  // namespace it3::detail
