#include "torchscript/script_writes.h"

#include <algorithm>

#include <torch/csrc/jit/ir/constants.h>

#include "torchscript/script_graph.h"

namespace it3::detail {
namespace {

using torch::jit::Node;
using torch::jit::Value;

bool is_tensor(const Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

/// Whether a value can hold tensors without being one.
bool may_hold_tensors(const Value* value) {
  switch (value->type()->kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::NumberType:
    case c10::TypeKind::NoneType:
    case c10::TypeKind::DeviceObjType: return false;
    default: return !is_tensor(value);
  }
}

}  // namespace

bool updates_statistics(const Node* node) {
  const bool normalizes = node->kind() == c10::aten::batch_norm || node->kind() == c10::aten::instance_norm;
  if (!normalizes || node->input(3)->mustBeNone()) return false;  // it has no running statistics
  return torch::jit::constant_as<bool>(node->input(5)).value_or(true);
}

ScriptWrites::ScriptWrites(std::shared_ptr<torch::jit::Graph> graph) : graph_(std::move(graph)) {
  const torch::jit::WithInsertPoint here(graph_->param_node()->next());
  for (Value* input : graph_->inputs()) {
    if (!is_tensor(input)) {
      own_.push_back(input);
      continue;
    }
    Value* const own = graph_->insert(c10::aten::clone, {input});
    input->replaceAllUsesAfterNodeWith(own->node(), own);
    own_.push_back(own);
  }
  anything_ = graph_->addInput()->setType(c10::TensorType::get());
  aliases_ = std::make_unique<torch::jit::AliasDb>(graph_);
}

ScriptWrites::~ScriptWrites() {
  aliases_.reset();
  graph_->eraseInput(graph_->inputs().size() - 1);
  for (Value* own : own_) {
    if (own->node()->kind() == c10::prim::Param) continue;
    own->replaceAllUsesWith(own->node()->input(0));
    own->node()->destroy();
  }
}

bool ScriptWrites::write(const std::vector<Node*>& nodes, Value* value) const {
  torch::jit::ValueSet values = {value};
  if (may_hold_tensors(value)) values.insert(anything_);
  return std::any_of(nodes.begin(), nodes.end(), [&](Node* node) {
    if (aliases_->writesToAlias(node, values)) return true;
    bool updates = false;
    const auto look = [&](const Node* inner) {
      updates |= updates_statistics(inner) &&
                 (aliases_->mayAlias(inner->input(3), value) || aliases_->mayAlias(inner->input(4), value));
    };
    look(node);
    for (torch::jit::Block* block : node->blocks()) for_each_node(block, look);
    return updates;
  });
}

bool ScriptWrites::write_input(const std::vector<Node*>& nodes, std::size_t input) const {
  return write(nodes, own_[input]);
}

}  // namespace it3::detail
