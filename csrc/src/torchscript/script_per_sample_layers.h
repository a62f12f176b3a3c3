#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace it3::detail {

/// Makes layers with a weight for each sample, in a vmap, products of matrices:
///
/// - linear layers by per_sample_linear();
/// - convolutions on a CUDA device, of the weight and the patches that the kernel looks at. As the grouped convolutions
///   that vmap makes of them, cuDNN's kernels take several times as long.
void set_per_sample_layers(torch::jit::Graph& graph);

}  // namespace it3::detail
