#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include "lifted_tensor.h"

namespace it3::detail {

/// A module's forward() without calls and attributes, with the output of one layer marked.
struct FlatGraph {
  std::shared_ptr<torch::jit::Graph> graph;
  /// The value that stands for the layer's output, or its first tensor, for all that comes after it.
  torch::jit::Value* features = nullptr;
  /// The inputs that were attributes, at the end of the graph's inputs.
  std::vector<LiftedTensor> lifted;
};

/// Raises c10::ValueError if the layer's output cannot be marked.
FlatGraph flatten_script(const torch::jit::Module& module, const std::string& layer);

/// Calls visit for every node, those in blocks too.
template <typename Visit>
void for_each_node(torch::jit::Block* block, const Visit& visit) {
  for (torch::jit::Node* node : block->nodes()) {
    visit(node);
    for (torch::jit::Block* inner : node->blocks()) for_each_node(inner, visit);
  }
}

}  // namespace it3::detail
