#include "torchscript/script_channels_last.h"

#include <algorithm>

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include "torchscript/script_graph.h"

namespace it3::detail {
namespace {

using torch::jit::Node;
namespace aten = c10::aten;

/// Operations that give a view of a contiguous tensor, and a copy of another one.
bool is_view_or_copy(const Node* node) {
  return node->kind() == aten::view || node->kind() == aten::reshape || node->kind() == aten::flatten ||
         node->kind() == aten::reshape_as;
}

bool depends_on_layout(const Node* node) {
  static const auto kinds = {
      c10::Symbol::fromQualString("aten::as_strided"),     c10::Symbol::fromQualString("aten::as_strided_"),
      c10::Symbol::fromQualString("aten::is_contiguous"),  c10::Symbol::fromQualString("aten::stride"),
      c10::Symbol::fromQualString("aten::storage_offset"), c10::Symbol::fromQualString("aten::resize_"),
      c10::Symbol::fromQualString("aten::set_"),           c10::Symbol::fromQualString("aten::view_as")};
  const bool is_known = node->kind().is_aten() || node->kind().is_prim();
  return !is_known || node->kind() == c10::prim::PythonOp ||
         std::find(kinds.begin(), kinds.end(), node->kind()) != kinds.end();
}

}  // namespace

bool allow_any_layout(const std::shared_ptr<torch::jit::Graph>& graph) {
  const torch::jit::AliasDb aliases(graph);
  bool is_possible = true;
  std::vector<Node*> views;
  for_each_node(graph->block(), [&](Node* node) {
    // A write to a copy would not be seen where one to a view is.
    const bool is_written = is_view_or_copy(node) && aliases.hasWriters(node->output());
    if (is_written || depends_on_layout(node)) is_possible = false;
    if (node->kind() == aten::view) views.push_back(node);
  });
  if (!is_possible) return false;
  for (Node* view : views) {
    view->replaceWithNewSymbol(aten::reshape);
    view->destroy();
  }
  return true;
}

bool is_convolution_weight(const torch::jit::Value* value) {
  return value->hasUses() && std::all_of(value->uses().begin(), value->uses().end(), [](const torch::jit::Use& use) {
           if (use.offset != 1) return false;
           if (use.user->kind() == aten::conv2d) return true;
           const bool is_general = use.user->kind() == aten::_convolution || use.user->kind() == aten::convolution;
           constexpr std::size_t transposed = 6;
           return is_general && torch::jit::constant_as<bool>(use.user->input(transposed)) == false;
         });
}

}  // namespace it3::detail
