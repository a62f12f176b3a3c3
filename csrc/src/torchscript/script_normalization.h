#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <it3/backend/normalization.h>

namespace it3::detail {

/// Makes a graph's batch normalization in eval mode use other statistics. Raises c10::ValueError if it has none with
/// running statistics.
void set_normalization(torch::jit::Graph& graph, const Normalization& normalization);

}  // namespace it3::detail
