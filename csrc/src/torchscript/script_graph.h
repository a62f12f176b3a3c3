#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <it3/backend/output_path.h>

#include "torchscript/lifted_tensor.h"
#include "torchscript/script_injection.h"

namespace it3::detail {

/// A module's forward() without calls and attributes, with the output of one layer marked.
struct FlatGraph {
  std::shared_ptr<torch::jit::Graph> graph;
  /// The value that stands for the layer's output, or its first tensor, for all that comes after it.
  torch::jit::Value* features = nullptr;
  /// The inputs that were attributes, at the end of the graph's inputs.
  std::vector<LiftedTensor> lifted;
  /// The attributes that the graph is made for.
  std::vector<FoldedAttribute> folded;
  /// Where the prediction is in what the graph gives; nothing: its only tensor.
  std::optional<OutputPath> output;
};

/// @param in_eval_mode  whether every `training` flag counts as false; else they count as they are
///
/// Raises c10::ValueError if the layer's output cannot be marked.
FlatGraph flatten_script(const torch::jit::Module& module, const CutPlace& place, bool in_eval_mode);

/// By dotted name.
using FoldedAttributes = std::map<std::string, FoldedAttribute>;

/// Makes constants of what cannot change in one call, flags above all; branches on them go. Adds what it read to
/// `folded`.
void fold_constants(
    std::shared_ptr<torch::jit::Graph>& graph,
    const torch::jit::Module& module,
    bool in_eval_mode,
    FoldedAttributes& folded);

/// A module's forward() as it stands, without calls, to be run with the module as its first input.
std::shared_ptr<torch::jit::Graph> whole_script(const torch::jit::Module& module, bool in_eval_mode);

/// Calls visit for every node, those in blocks too.
template <typename Visit>
void for_each_node(torch::jit::Block* block, const Visit& visit) {
  for (torch::jit::Node* node : block->nodes()) {
    visit(node);
    for (torch::jit::Block* inner : node->blocks()) for_each_node(inner, visit);
  }
}

}  // namespace it3::detail
