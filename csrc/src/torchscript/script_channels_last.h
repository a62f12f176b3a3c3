#pragma once

#include <memory>

#include <torch/csrc/jit/ir/ir.h>

namespace it3::detail {

/// Makes a graph that was written for contiguous tensors right for tensors of any memory layout: what asks for a view
/// takes a copy where there can be none. Gives false, and changes nothing, if it depends on layouts in another way.
bool allow_any_layout(const std::shared_ptr<torch::jit::Graph>& graph);

/// Whether all that is done with a value is to take it for the weight of two-dimensional convolutions.
bool is_convolution_weight(const torch::jit::Value* value);

}  // namespace it3::detail
