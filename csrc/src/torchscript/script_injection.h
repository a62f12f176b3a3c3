#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <torch/csrc/jit/ir/ir.h>

#include <it3/backend/output_path.h>

#include "torchscript/size_conditions.h"

namespace it3::detail {

/// Where a module is cut, and what its prediction is.
struct CutPlace {
  std::string layer;
  std::optional<OutputPath> output;                       // in what the module returns; nothing: its only tensor
  std::optional<OutputPath> layer_output;                 // in what the layer returns; nothing: its first tensor
  std::shared_ptr<const SizeConditions> sizes = nullptr;  // of inputs; null: any
};

/// Raises CutRefusal.
[[noreturn]] void refuse_cut(const std::string& layer, const std::string& why, std::string_view advice);

/// Puts a marker behind the tensor in a layer's output that is injected into. Gives what the output is from there on:
/// the marker, or a container like the output that holds it. Raises c10::ValueError if there is no such tensor, or its
/// container does not tell its elements.
torch::jit::Value* mark_features(
    torch::jit::Graph& graph, torch::jit::Value* output, torch::jit::Node* before, const CutPlace& place);

/// The marker; null if nothing depends on it.
torch::jit::Value* find_features(torch::jit::Graph& graph);

/// Lets a graph give only what is at a path in its output, as far as it leads through tuples; the rest of the path
/// stays, for what the graph then gives.
void select_output(torch::jit::Graph& graph, OutputPath& path);

}  // namespace it3::detail
