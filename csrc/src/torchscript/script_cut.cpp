#include "torchscript/script_cut.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include "torchscript/script_channels_last.h"
#include "torchscript/script_graph.h"
#include "torchscript/script_normalization.h"
#include "torchscript/script_per_sample_layers.h"
#include "torchscript/script_writes.h"

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

/// The node that depends on chance, of a node and those in its blocks; null if there is none.
const Node* random_in(Node* node) {
  if (is_random(node)) return node;
  for (Block* block : node->blocks()) {
    for (Node* inner : block->nodes()) {
      if (const Node* const found = random_in(inner); found != nullptr) return found;
    }
  }
  return nullptr;
}

bool may_differ(Node* node) { return random_in(node) != nullptr; }

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

/// Whether an attribute has the value that it had.
bool is_same(const c10::IValue& now, const c10::IValue& before) {
  if (now.is(before)) return true;
  if (now.tagKind() != before.tagKind() || now.isObject()) return false;
  return now == before;
}

/// The module's forward() as it stands, but for what normalization is asked to be.
std::shared_ptr<Graph> whole_with(
    const torch::jit::Module& module, bool in_eval_mode, const Normalization& normalization) {
  auto graph = whole_script(module, in_eval_mode);
  if (normalization.statistics == NormStatistics::running) return graph;
  FoldedAttributes folded;
  fold_constants(graph, module, in_eval_mode, folded);
  set_normalization(*graph, normalization);
  return graph;
}

/// The nodes of a graph in two parts.
struct Parts {
  std::vector<Node*> head;
  std::vector<Node*> tail;
};

Parts parts_of(Graph& graph, Value* features) {
  Parts parts{{}, tail_nodes(graph, features)};
  const std::unordered_set<Node*> in_tail(parts.tail.begin(), parts.tail.end());
  for (Node* node : graph.nodes()) {
    if (!in_tail.contains(node)) parts.head.push_back(node);
  }
  return parts;
}

/// What the tail reads of what the head made: constants are made again, other values cross.
struct Crossing {
  std::vector<Node*> constants;
  std::vector<Value*> values;
};

Crossing crossing_of(Graph& graph, const Parts& parts, Value* features) {
  Crossing crossing;
  const std::unordered_set<Node*> in_tail(parts.tail.begin(), parts.tail.end());
  std::unordered_set<Value*> seen(graph.inputs().begin(), graph.inputs().end());
  seen.insert(features);
  const auto need = [&](Value* value) {
    if (in_tail.contains(value->node()) || !seen.insert(value).second) return;
    if (value->node()->kind() == c10::prim::Constant) {
      crossing.constants.push_back(value->node());
    } else {
      crossing.values.push_back(value);
    }
  };
  for (Node* node : parts.tail) {
    for (Value* value : reads_of(node)) need(value);
  }
  for (Value* value : graph.outputs()) need(value);
  return crossing;
}

template <typename T>
std::vector<T> joined(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// Notes where lifted tensors, the last inputs, are read.
void note_reads(ScriptCut& cut, const Parts& parts, const std::vector<Value*>& inputs, bool has_any_layout) {
  std::unordered_set<Value*> read_in_head;
  for (Node* node : parts.head) read_in_head.merge(reads_of(node));
  for (std::size_t i = 0; i < cut.lifted.size(); ++i) {
    Value* const input = inputs[cut.inputs + i];
    cut.lifted[i].is_in_head = read_in_head.contains(input);
    cut.lifted[i].is_convolution_weight = has_any_layout && is_convolution_weight(input);
  }
}

/// Notes what is written to.
///
/// @param handed  what the head gives the tail
void note_writes(
    ScriptCut& cut,
    const ScriptWrites& writes,
    const Parts& parts,
    const std::vector<Value*>& handed,
    bool in_eval_mode) {
  for (Value* value : handed) cut.written_in_tail.push_back(writes.write(parts.tail, value));
  for (std::size_t i = 0; i < cut.inputs + cut.lifted.size(); ++i) {
    const bool in_head = writes.write_input(parts.head, i), in_tail = writes.write_input(parts.tail, i);
    if (i < cut.inputs) {
      cut.written_in_tail.push_back(in_tail);
      cut.writes_inputs |= in_head || in_tail;
    } else {
      cut.lifted[i - cut.inputs].is_written = in_head || in_tail;
      cut.repeats_head |= in_eval_mode && in_head;
    }
  }
}

/// Notes what depends on chance. Training draws anew in each pass.
void note_chance(ScriptCut& cut, const Parts& parts, bool in_eval_mode) {
  const auto random = std::find_if(parts.head.begin(), parts.head.end(), may_differ);
  const bool head_may_differ = random != parts.head.end();
  cut.draws_random_numbers = head_may_differ || std::any_of(parts.tail.begin(), parts.tail.end(), may_differ);
  const bool writes_lifted =
      std::any_of(cut.lifted.begin(), cut.lifted.end(), [](const LiftedTensor& t) { return t.is_written; });
  cut.repeats_head |= !in_eval_mode && head_may_differ;
  if (head_may_differ) {
    cut.why_head_may_differ = c10::str(
        "what comes before the layer may draw random numbers, as torch says of ",
        random_in(*random)->kind().toUnqualString());
  } else if (cut.writes_inputs || writes_lifted) {
    cut.why_head_may_differ =
        c10::str("forward() writes to its inputs, buffers or parameters", in_eval_mode ? " in eval mode" : "");
  }
}

}  // namespace

bool ScriptCut::is_current() const {
  return std::all_of(folded.begin(), folded.end(), [](const FoldedAttribute& known) {
    return is_same(known.attribute.get(), known.value);
  });
}

ScriptCut cut_script(
    const torch::jit::Module& module,
    const CutPlace& place,
    bool in_eval_mode,
    const Normalization& normalization,
    bool per_sample) {
  const FlatGraph flat = flatten_script(module, place, in_eval_mode);
  Graph& graph = *flat.graph;
  set_normalization(graph, normalization);
  if (per_sample) set_per_sample_layers(graph);
  const bool has_any_layout = allow_any_layout(flat.graph);

  const Parts parts = parts_of(graph, flat.features);
  const Crossing crossing = crossing_of(graph, parts, flat.features);
  const std::vector<Value*> inputs = graph.inputs().vec();
  const std::vector<Value*> handed = joined({flat.features}, crossing.values);

  static std::atomic<std::uint64_t> last_id = 0;
  ScriptCut cut;
  cut.id = ++last_id;
  cut.place = place;
  cut.head = torch::jit::Code(build(inputs, parts.head, handed), "it3_head");
  cut.tail = torch::jit::Code(
      build(joined(handed, inputs), joined(crossing.constants, parts.tail), graph.outputs().vec()), "it3_tail");
  cut.whole = torch::jit::Code(whole_with(module, in_eval_mode, normalization), "it3_whole");
  cut.inputs = inputs.size() - flat.lifted.size();
  cut.crossing = crossing.values.size();
  cut.folded = flat.folded;
  cut.output = flat.output;
  cut.lifted = flat.lifted;
  note_reads(cut, parts, inputs, has_any_layout);
  note_writes(cut, ScriptWrites(flat.graph), parts, handed, in_eval_mode);
  note_chance(cut, parts, in_eval_mode);
  return cut;
}

}  // namespace it3::detail
