#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace it3::detail {

/// Makes convolutions with a weight for each sample, in a vmap on a CUDA device, products of matrices. As the grouped
/// convolutions that vmap makes of them, cuDNN's kernels take several times as long.
void set_convolutions_of_each(torch::jit::Graph& graph);

}  // namespace it3::detail
