#include "script_graph.h"

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

#include "tensor_identity.h"

namespace it3::detail {
namespace {

using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
namespace prim = c10::prim;
namespace attr = c10::attr;

// By its name the marked value is found again after passes that rewrite the graph.
/// On the node that stands for the layer's output. A name would not stay: inlining gives values other ones.
const c10::Symbol features_mark = c10::Symbol::attr("it3_features");

[[noreturn]] void refuse(const std::string& layer, std::string_view why) {
  TORCH_CHECK_VALUE(false, "the TorchScript module cannot be cut at the layer '", layer, "': ", why);
}

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

/// Replaces what can no longer change, flags above all, by constants; branches on them go.
void fold_constants(std::shared_ptr<Graph>& graph, const torch::jit::Module& module) {
  for (const auto& [node, path] : attribute_reads(*graph)) {
    const c10::IValue value = owner_of(module, path).attr(last_part(path));
    if (value.isTensor() || value.isTensorList()) continue;
    const torch::jit::WithInsertPoint here(node);
    if (const auto constant = torch::jit::tryInsertConstant(*graph, value)) {
      node->output()->replaceAllUsesWith(*constant);
    }
  }
  torch::jit::ConstantPropagation(graph);
}

/// Inlines the calls of the modules around the layer, and only those, until the layer's own calls are left.
std::vector<Node*> calls_of_layer(
    std::shared_ptr<Graph>& graph, const torch::jit::Module& module, const std::string& layer) {
  while (true) {
    fold_constants(graph, module);
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

/// Puts a marker behind a value; all later uses of the value, or of its first tensor, become uses of the marker.
void mark(Graph& graph, Value* output, Node* before, const std::string& layer) {
  const torch::jit::WithInsertPoint here(before);
  const auto marker_of = [&](Value* tensor) {
    Value* const marker = graph.insert(c10::aten::alias, {tensor});
    marker->node()->i_(features_mark, 1);
    return marker;
  };
  if (output->type()->isSubtypeOf(*c10::TensorType::get())) {
    Value* const marker = marker_of(output);
    output->replaceAllUsesAfterNodeWith(marker->node(), marker);
    return;
  }
  const auto tuple = output->type()->cast<c10::TupleType>();
  if (tuple == nullptr || tuple->elements().empty() || !tuple->elements()[0]->isSubtypeOf(*c10::TensorType::get())) {
    refuse(
        layer, c10::str(
                   "it returns ", output->type()->str(),
                   ", not a tensor or a tuple that begins with one. Name a "
                   "layer in it, or give the eager module"));
  }
  Node* const unpack = graph.insertNode(graph.createTupleUnpack(output));
  std::vector<Value*> elements = unpack->outputs().vec();
  elements[0] = marker_of(elements[0]);
  Node* const packed = graph.insertNode(graph.createTuple(elements, tuple->schema() != nullptr ? tuple : nullptr));
  output->replaceAllUsesAfterNodeWith(packed, packed->output());
}

/// Turns tensor attributes, and lists of tensors, into inputs; one for tensors that are held in several places.
std::vector<LiftedTensor> lift_tensors(Graph& graph, const torch::jit::Module& module, const std::string& layer) {
  std::vector<LiftedTensor> lifted;
  std::map<TensorIdentity, Value*> inputs;
  const auto lift = [&](LiftedTensor tensor) {
    Value*& input = inputs[identity_of(tensor.get())];
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
      node->output()->replaceAllUsesWith(lift({{owner, name}, std::nullopt}));
    } else if (value.isTensorList()) {
      std::vector<Value*> elements;
      for (std::size_t i = 0; i < value.toTensorList().size(); ++i) elements.push_back(lift({{owner, name}, i}));
      const torch::jit::WithInsertPoint here(node);
      Node* const list = graph.insertNode(graph.createList(c10::TensorType::get(), elements));
      node->output()->replaceAllUsesWith(list->output());
    } else {
      refuse(
          layer, c10::str(
                     "the attribute '", path, "', a ", node->output()->type()->str(),
                     ", cannot be made a constant. Give the eager module"));
    }
  }
  return lifted;
}

Value* find_features(Graph& graph) {
  for (Node* node : nodes_of_kind(graph, c10::aten::alias)) {
    if (node->hasAttribute(features_mark)) return node->output();
  }
  return nullptr;
}

}  // namespace

FlatGraph flatten_script(const torch::jit::Module& module, const std::string& layer) {
  auto graph = torch::jit::toGraphFunction(module.get_method("forward").function()).graph()->copy();
  if (layer.empty()) {
    mark(*graph, graph->outputs().at(0), graph->return_node(), layer);
    // Nothing comes after the marker but the return.
    Value* const features = find_features(*graph);
    if (graph->outputs().at(0)->type()->kind() == c10::TypeKind::TensorType)
      graph->return_node()->replaceInput(0, features);
  } else {
    const auto calls = calls_of_layer(graph, module, layer);
    if (calls.empty()) {
      refuse(layer, "forward() does not call it. Name a layer that is called, or the one around it");
    }
    if (calls.size() > 1) {
      refuse(
          layer, c10::str(
                     "forward() calls it ", calls.size(),
                     " times. Name a layer that is called once, or give the "
                     "eager module"));
    }
    if (calls[0]->owningBlock() != graph->block()) {
      refuse(layer, "it is called inside a branch or a loop. Name the layer around it, or give the eager module");
    }
    mark(*graph, calls[0]->output(), calls[0]->next(), layer);
  }

  torch::jit::Inline(*graph);
  fold_constants(graph, module);
  if (!nodes_of_kind(*graph, prim::SetAttr).empty()) {
    refuse(layer, "forward() assigns attributes of the module. Change them in place, or give the eager module");
  }
  FlatGraph flat{graph, nullptr, lift_tensors(*graph, module, layer)};
  torch::jit::LowerSimpleTuples(graph);
  torch::jit::ConstantPropagation(graph);
  torch::jit::PeepholeOptimize(graph);
  torch::jit::EliminateDeadCode(graph);
  torch::jit::EliminateCommonSubexpression(graph);
  torch::jit::EliminateDeadCode(graph);

  flat.features = find_features(*graph);
  if (flat.features == nullptr) refuse(layer, "the prediction does not depend on its output");
  if (graph->inputs().at(0)->hasUses()) {
    refuse(layer, "forward() uses the module itself as a value. Give the eager module");
  }
  graph->eraseInput(0);
  return flat;
}

}  // namespace it3::detail
