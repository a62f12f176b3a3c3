#include "script_cut.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include "script_channels_last.h"
#include "script_graph.h"
#include "script_layers_of_each.h"
#include "script_normalisation.h"

namespace it3::detail {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

/// The values from outside that a node reads, in its blocks too.
std::unordered_set<Value*> reads_of(Node* node) {
  std::unordered_set<Value*> reads(node->inputs().begin(), node->inputs().end());
  std::unordered_set<Value*> own;
  const std::function<void(Block*)> visit = [&](Block* block) {
    own.insert(block->inputs().begin(), block->inputs().end());
    for (Node* inner : block->nodes()) {
      reads.insert(inner->inputs().begin(), inner->inputs().end());
      own.insert(inner->outputs().begin(), inner->outputs().end());
      for (Block* deeper : inner->blocks()) visit(deeper);
    }
    reads.insert(block->outputs().begin(), block->outputs().end());
  };
  for (Block* block : node->blocks()) visit(block);
  std::erase_if(reads, [&](Value* value) { return own.contains(value); });
  return reads;
}

template <typename Condition>
bool any_in_blocks(Node* node, const Condition& condition) {
  const auto blocks = node->blocks();
  return std::any_of(blocks.begin(), blocks.end(), [&](Block* block) {
    return std::any_of(block->nodes().begin(), block->nodes().end(), condition);
  });
}

/// Whether a node normalises by its input's statistics and updates the running ones, which its schema does not tell.
bool updates_statistics(Node* node) {
  const bool normalises = node->kind() == c10::aten::batch_norm || node->kind() == c10::aten::instance_norm;
  if (!normalises || node->input(3)->mustBeNone()) return false;  // it has no running statistics
  return torch::jit::constant_as<bool>(node->input(5)).value_or(true);
}

/// Whether a node, or one in its blocks, writes to memory or does something else that must keep its place.
bool must_keep_place(Node* node) {
  const auto* const schema = node->maybeSchema();
  const bool is_mutable = schema != nullptr && schema->is_mutable();
  return node->hasSideEffects() || is_mutable || updates_statistics(node) || any_in_blocks(node, must_keep_place);
}

/// Whether a node's operation draws random numbers. Of attention, torch only knows that it may.
bool is_random(Node* node) {
  if (node->kind() == c10::aten::scaled_dot_product_attention) {
    return torch::jit::constant_as<double>(node->input(4)).value_or(1) != 0;
  }
  return node->isNondeterministic();
}

/// Whether a node, or one in its blocks, depends on chance or updates statistics.
bool may_change(Node* node) { return is_random(node) || updates_statistics(node) || any_in_blocks(node, may_change); }

/// The nodes that run once for each pass: those that depend on the features. If anything after the features writes,
/// order matters, and it is all nodes after them.
std::vector<Node*> tail_nodes(Graph& graph, Value* features) {
  std::vector<Node*> after;
  for (Node* node = features->node()->next(); node != graph.return_node(); node = node->next()) after.push_back(node);
  if (std::any_of(after.begin(), after.end(), must_keep_place)) return after;
  std::unordered_set<Value*> dependent = {features};
  std::vector<Node*> nodes;
  for (Node* node : after) {
    const auto reads = reads_of(node);
    if (std::none_of(reads.begin(), reads.end(), [&](Value* value) { return dependent.contains(value); })) continue;
    nodes.push_back(node);
    dependent.insert(node->outputs().begin(), node->outputs().end());
  }
  return nodes;
}

std::shared_ptr<Graph> build(
    const std::vector<Value*>& inputs, const std::vector<Node*>& nodes, const std::vector<Value*>& outputs) {
  auto graph = std::make_shared<Graph>();
  std::unordered_map<Value*, Value*> copies;
  for (Value* value : inputs) copies[value] = graph->addInput()->setType(value->type());
  for (Node* node : nodes) {
    if (node->kind() == c10::aten::alias) {  // such as the mark behind the layer
      copies[node->output()] = copies.at(node->input());
      continue;
    }
    Node* const copy = graph->appendNode(graph->createClone(node, [&](Value* value) { return copies.at(value); }));
    for (std::size_t i = 0; i < node->outputs().size(); ++i) copies[node->output(i)] = copy->output(i);
  }
  for (Value* value : outputs) graph->registerOutput(copies.at(value));
  return graph;
}

}  // namespace

ScriptCut cut_script(
    const torch::jit::Module& module, const std::string& layer, const Normalisation& normalisation, bool of_each) {
  const FlatGraph flat = flatten_script(module, layer);
  Graph& graph = *flat.graph;
  set_normalisation(graph, normalisation);
  if (of_each) set_layers_of_each(graph);
  const bool has_any_layout = allow_any_layout(flat.graph);
  const torch::jit::AliasDb aliases(flat.graph);

  const std::vector<Node*> tail = tail_nodes(graph, flat.features);
  const std::unordered_set<Node*> in_tail(tail.begin(), tail.end());
  std::vector<Node*> head;
  for (Node* node : graph.nodes()) {
    if (!in_tail.contains(node)) head.push_back(node);
  }

  // What the tail reads and the head made: constants are made again, other values cross.
  const std::vector<Value*> inputs = graph.inputs().vec();
  std::vector<Node*> constants;
  std::vector<Value*> crossing;
  std::unordered_set<Value*> seen(inputs.begin(), inputs.end());
  seen.insert(flat.features);
  const auto need = [&](Value* value) {
    if (in_tail.contains(value->node()) || !seen.insert(value).second) return;
    if (value->node()->kind() == c10::prim::Constant) {
      constants.push_back(value->node());
    } else {
      crossing.push_back(value);
    }
  };
  for (Node* node : tail) {
    for (Value* value : reads_of(node)) need(value);
  }
  for (Value* value : graph.outputs()) need(value);

  std::vector<Value*> handed = {flat.features};
  handed.insert(handed.end(), crossing.begin(), crossing.end());
  std::vector<Value*> tail_inputs = handed;
  tail_inputs.insert(tail_inputs.end(), inputs.begin(), inputs.end());
  std::vector<Node*> tail_and_constants = constants;
  tail_and_constants.insert(tail_and_constants.end(), tail.begin(), tail.end());

  static std::atomic<std::uint64_t> last_id = 0;
  ScriptCut cut;
  cut.id = ++last_id;
  cut.head = torch::jit::Code(build(inputs, head, handed), "it3_head");
  cut.tail = torch::jit::Code(build(tail_inputs, tail_and_constants, graph.outputs().vec()), "it3_tail");
  cut.inputs = inputs.size() - flat.lifted.size();
  cut.crossing = crossing.size();
  const torch::jit::ValueSet handed_set(handed.begin(), handed.end());
  cut.tail_writes =
      std::any_of(tail.begin(), tail.end(), [&](Node* node) { return aliases.writesToAlias(node, handed_set); });
  std::unordered_set<Value*> read_in_head;
  for (Node* node : head) read_in_head.merge(reads_of(node));
  cut.is_head_fixed =
      std::none_of(head.begin(), head.end(), may_change) &&
      std::none_of(inputs.begin(), inputs.end(), [&](Value* input) { return aliases.hasWriters(input); });
  cut.lifted = flat.lifted;
  for (std::size_t i = 0; i < cut.lifted.size(); ++i) {
    cut.lifted[i].is_in_head = read_in_head.contains(inputs[cut.inputs + i]);
    cut.lifted[i].is_written = aliases.hasWriters(inputs[cut.inputs + i]);
    cut.lifted[i].is_convolution_weight = has_any_layout && is_convolution_weight(inputs[cut.inputs + i]);
  }
  return cut;
}

}  // namespace it3::detail
