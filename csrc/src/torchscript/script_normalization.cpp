#include "torchscript/script_normalization.h"

#include <vector>

#include <ATen/core/stack.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "torchscript/script_graph.h"

namespace it3::detail {
namespace {

using torch::jit::Node;
using torch::jit::Stack;
using torch::jit::Value;

constexpr const char* schema =
    "it3::batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor running_mean, Tensor running_var, float eps, "
    "int statistics, float? prior) -> Tensor";

void run(Stack& stack) {
  const std::vector<c10::IValue> a = torch::jit::pop(stack, 8);
  const auto maybe = [](const c10::IValue& tensor) { return tensor.isNone() ? at::Tensor() : tensor.toTensor(); };
  const Normalization normalization{static_cast<NormStatistics>(a[6].toInt()), a[7].toOptional<double>()};
  stack.emplace_back(batch_norm(
      a[0].toTensor(), maybe(a[1]), maybe(a[2]), a[3].toTensor(), a[4].toTensor(), a[5].toDouble(), normalization));
}

/// Makes the interpreter know it3::batch_norm.
void register_operator() {
  static const torch::jit::RegisterOperators once(
      {torch::jit::Operator(schema, run, c10::AliasAnalysisKind::FROM_SCHEMA)});
}

void replace(Node* node, const Normalization& normalization) {
  torch::jit::Graph& graph = *node->owningGraph();
  const torch::jit::WithInsertPoint here(node);
  std::vector<Value*> inputs(node->inputs().begin(), node->inputs().begin() + 5);
  inputs.push_back(node->input(7));
  inputs.push_back(graph.insertConstant(static_cast<std::int64_t>(normalization.statistics)));
  inputs.push_back(graph.insertConstant(c10::IValue(normalization.prior)));
  Node* const other = graph.insertNode(graph.create(c10::Symbol::fromQualString("it3::batch_norm"), inputs));
  other->output()->setType(node->output()->type());
  node->output()->replaceAllUsesWith(other->output());
  node->destroy();
}

}  // namespace

void set_normalization(torch::jit::Graph& graph, const Normalization& normalization) {
  if (normalization.statistics == NormStatistics::running) return;
  register_operator();
  std::vector<Node*> nodes;
  for_each_node(graph.block(), [&](Node* node) {
    const bool has_statistics = node->kind() == c10::aten::batch_norm && !node->input(3)->mustBeNone();
    if (has_statistics) nodes.push_back(node);
  });
  TORCH_CHECK_VALUE(
      !nodes.empty(),
      "norm_statistics is not 'running', but the model has no batch normalization with running statistics; use "
      "'running'");
  for (Node* node : nodes) {
    const bool is_in_eval_mode = torch::jit::constant_as<bool>(node->input(5)) == false;
    if (is_in_eval_mode) replace(node, normalization);
  }
}

}  // namespace it3::detail
