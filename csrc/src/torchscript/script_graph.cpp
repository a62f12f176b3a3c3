#include "torchscript/script_graph.h"

#include <algorithm>
#include <map>
#include <optional>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/common_subexpression_elimination.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/lower_tuples.h>
#include <torch/csrc/jit/passes/peephole.h>

namespace it3::detail {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
namespace prim = c10::prim;
namespace attr = c10::attr;

/// The dotted name of the submodule or attribute that a value is read from; nothing for other values.
std::optional<std::string> path_of(const Value* value) {
  const Node* const node = value->node();
  if (node->kind() == prim::Param && value == node->owningGraph()->inputs().at(0)) return "";
  if (node->kind() != prim::GetAttr) return std::nullopt;
  const auto base = path_of(node->input());
  if (!base) return std::nullopt;
  return base->empty() ? node->s(attr::name) : *base + "." + node->s(attr::name);
}

bool is_around(const std::string& path, const std::string& layer) {
  return path != layer && (path.empty() || layer.starts_with(path + "."));
}

std::vector<Node*> nodes_of_kind(Graph& graph, c10::Symbol kind) {
  std::vector<Node*> nodes;
  for_each_node(graph.block(), [&](Node* node) {
    if (node->kind() == kind) nodes.push_back(node);
  });
  return nodes;
}

torch::jit::Module owner_of(torch::jit::Module module, const std::string& path) {
  std::size_t begin = 0;
  for (std::size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    module = module.attr(path.substr(begin, dot - begin)).toModule();
    begin = dot + 1;
  }
  return module;
}

std::string last_part(const std::string& path) {
  const auto dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

/// The attributes that are read in the graph, and where; modules are no attributes here.
std::vector<std::pair<Node*, std::string>> attribute_reads(Graph& graph) {
  std::vector<std::pair<Node*, std::string>> reads;
  for (Node* node : nodes_of_kind(graph, prim::GetAttr)) {
    const auto type = node->output()->type()->cast<c10::ClassType>();
    if (type != nullptr && type->is_module()) continue;
    if (auto path = path_of(node->output())) reads.emplace_back(node, std::move(*path));
  }
  return reads;
}

/// Inlines the calls of the modules around the layer, and only those, until the layer's own calls are left.
std::vector<Node*> calls_of_layer(
    std::shared_ptr<Graph>& graph,
    const torch::jit::Module& module,
    const std::string& layer,
    bool in_eval_mode,
    FoldedAttributes& folded) {
  while (true) {
    fold_constants(graph, module, in_eval_mode, folded);
    std::vector<Node*> calls;
    Node* around = nullptr;
    for (Node* call : nodes_of_kind(*graph, prim::CallMethod)) {
      const auto path = path_of(call->input(0));
      if (!path) continue;
      // A tracer names the method of a second call forward1, and so on.
      if (*path == layer && call->s(attr::name).starts_with("forward")) calls.push_back(call);
      if (is_around(*path, layer) && call->input(0)->type()->cast<c10::ClassType>() != nullptr) around = call;
    }
    if (around == nullptr) return calls;
    auto& method = around->input(0)->type()->expectRef<c10::ClassType>().getMethod(around->s(attr::name));
    auto& function = torch::jit::toGraphFunction(method);
    torch::jit::inlineCallTo(around, &function, function.graph().get());
  }
}

/// Turns tensor attributes, and lists of tensors, into inputs, one for each place that a tensor is held in: which of
/// them are the same tensor may change.
std::vector<LiftedTensor> lift_tensors(Graph& graph, const torch::jit::Module& module, const std::string& layer) {
  std::vector<LiftedTensor> lifted;
  std::map<std::string, Value*> inputs;
  const auto lift = [&](LiftedTensor tensor) {
    Value*& input = inputs[tensor.name];
    if (input == nullptr) {
      input = graph.addInput()->setType(c10::TensorType::get());
      lifted.push_back(std::move(tensor));
    }
    return input;
  };
  for (const auto& [node, path] : attribute_reads(graph)) {
    if (!node->hasUses()) continue;
    const torch::jit::Module owner = owner_of(module, path);
    const std::string name = last_part(path);
    const c10::IValue value = owner.attr(name);
    if (value.isTensor()) {
      node->output()->replaceAllUsesWith(lift({{owner, name}, std::nullopt, path}));
    } else if (value.isTensorList()) {
      std::vector<Value*> elements;
      for (std::size_t i = 0; i < value.toTensorList().size(); ++i) {
        elements.push_back(lift({{owner, name}, i, c10::str(path, "[", i, "]")}));
      }
      const torch::jit::WithInsertPoint here(node);
      Node* const list = graph.insertNode(graph.createList(c10::TensorType::get(), elements));
      node->output()->replaceAllUsesWith(list->output());
    } else {
      refuse_cut(
          layer,
          c10::str(
              "the attribute '", path, "', a ", node->output()->type()->str(),
              ", is read by forward(), which is not supported"),
          "Use the eager model in Python");
    }
  }
  return lifted;
}

bool is_training_flag(const std::string& name, const c10::IValue& value) {
  return name == "training" && value.isBool();
}

}  // namespace

void fold_constants(
    std::shared_ptr<Graph>& graph, const torch::jit::Module& module, bool in_eval_mode, FoldedAttributes& folded) {
  for (const auto& [node, path] : attribute_reads(*graph)) {
    const torch::jit::Module owner = owner_of(module, path);
    const std::string name = last_part(path);
    c10::IValue value = owner.attr(name);
    if (value.isTensor() || value.isTensorList()) continue;
    const bool is_given = in_eval_mode && is_training_flag(name, value);
    if (is_given) value = false;
    const torch::jit::WithInsertPoint here(node);
    const auto constant = torch::jit::tryInsertConstant(*graph, value);
    if (!constant) continue;
    node->output()->replaceAllUsesWith(*constant);
    if (!is_given)
      folded.try_emplace(path, FoldedAttribute{{owner, name}, value.isObject() ? value : value.deepcopy()});
  }
  torch::jit::ConstantPropagation(graph);
}

std::shared_ptr<Graph> whole_script(const torch::jit::Module& module, bool in_eval_mode) {
  auto graph = torch::jit::toGraphFunction(module.get_method("forward").function()).graph()->copy();
  torch::jit::Inline(*graph);
  if (!in_eval_mode) return graph;
  for (Node* node : nodes_of_kind(*graph, prim::GetAttr)) {
    if (node->s(attr::name) != "training" || node->output()->type()->kind() != c10::TypeKind::BoolType) continue;
    const torch::jit::WithInsertPoint here(node);
    node->output()->replaceAllUsesWith(graph->insertConstant(false));
  }
  return graph;
}

FlatGraph flatten_script(const torch::jit::Module& module, const CutPlace& place, bool in_eval_mode) {
  const std::string& layer = place.layer;
  auto graph = torch::jit::toGraphFunction(module.get_method("forward").function()).graph()->copy();
  FoldedAttributes folded;
  if (layer.empty()) {
    Value* const marked = mark_features(*graph, graph->outputs().at(0), graph->return_node(), place);
    graph->return_node()->replaceInput(0, marked);
  } else {
    const auto calls = calls_of_layer(graph, module, layer, in_eval_mode, folded);
    if (calls.empty()) {
      refuse_cut(layer, "forward() does not call the layer", "Name a layer that is called, or the one around it");
    }
    if (calls.size() > 1) {
      refuse_cut(
          layer, c10::str("forward() calls the layer ", calls.size(), " times"),
          "Name a layer that is called once, or use the eager model in Python");
    }
    if (calls[0]->owningBlock() != graph->block()) {
      refuse_cut(
          layer, "the layer is called inside a branch or a loop",
          "Name the layer around it, or use the eager model in Python");
    }
    Value* const output = calls[0]->output();
    Value* const marked = mark_features(*graph, output, calls[0]->next(), place);
    output->replaceAllUsesAfterNodeWith(marked->node(), marked);
  }
  std::optional<OutputPath> output = place.output;
  if (output) select_output(*graph, *output);

  torch::jit::Inline(*graph);
  fold_constants(graph, module, in_eval_mode, folded);
  if (!nodes_of_kind(*graph, prim::SetAttr).empty()) {
    refuse_cut(
        layer, "forward() assigns attributes of the module",
        "Update buffers in place, as by add_(), or use the eager model in Python");
  }
  FlatGraph flat{graph, nullptr, lift_tensors(*graph, module, layer), {}, std::move(output)};
  for (const auto& [path, attribute] : folded) flat.folded.push_back(attribute);
  torch::jit::LowerSimpleTuples(graph);
  torch::jit::ConstantPropagation(graph);
  torch::jit::PeepholeOptimize(graph);
  torch::jit::EliminateDeadCode(graph);
  torch::jit::EliminateCommonSubexpression(graph);
  torch::jit::EliminateDeadCode(graph);

  flat.features = find_features(*graph);
  if (flat.features == nullptr) {
    refuse_cut(
        layer, "the prediction does not depend on the layer's output",
        "Name another layer, or say by layer_output which of its outputs is meant, or by output which of the model's "
        "is the prediction");
  }
  if (graph->inputs().at(0)->hasUses()) {
    refuse_cut(layer, "forward() passes the module itself to a function, or keeps it", "Use the eager model in Python");
  }
  graph->eraseInput(0);
  return flat;
}

}  // namespace it3::detail
