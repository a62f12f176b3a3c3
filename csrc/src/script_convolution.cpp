#include "script_convolution.h"

#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/stack.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "script_graph.h"
#include "vmap.h"

namespace it3::detail {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

constexpr const char* schema =
    "it3::conv2d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> "
    "Tensor";

struct Geometry {
  std::vector<std::int64_t> stride, padding, dilation;
};

/// weight * columns of x, each sample by its own: x (samples, n, C, H, W), weight (samples, O, C, h, w).
at::Tensor by_matrices(const at::Tensor& x, const at::Tensor& weight, const Geometry& geometry) {
  const auto kernel = weight.sizes().slice(3);
  const at::Tensor images = x.flatten(0, 1);
  std::vector<std::int64_t> places;
  for (std::size_t d = 0; d < 2; ++d) {
    const std::int64_t reach = geometry.dilation[d] * (kernel[d] - 1) + 1;
    places.push_back(
        (images.size(static_cast<std::int64_t>(d) + 2) + 2 * geometry.padding[d] - reach) / geometry.stride[d] + 1);
  }
  const at::Tensor columns = at::im2col(images, kernel, geometry.dilation, geometry.padding, geometry.stride);
  const at::Tensor of_each = columns.unflatten(0, x.sizes().slice(0, 2));
  return at::matmul(weight.flatten(2).unsqueeze(1), of_each).unflatten(-1, places);
}

std::vector<std::int64_t> pair_of(const c10::IValue& value) {
  std::vector<std::int64_t> pair = value.toIntVector();
  if (pair.size() == 1) pair.push_back(pair[0]);
  return pair;
}

void run(Stack& stack) {
  const std::vector<c10::IValue> a = torch::jit::pop(stack, 7);
  const at::Tensor &x = a[0].toTensor(), &weight = a[1].toTensor();
  const at::Tensor bias = a[2].isNone() ? at::Tensor() : a[2].toTensor();
  const Geometry geometry = {pair_of(a[3]), pair_of(a[4]), pair_of(a[5])};
  const std::int64_t groups = a[6].toInt();
  if (!weight.is_cuda() || !Vmap::is_wrapped(weight) || groups != 1 || x.dim() != 4) {
    stack.emplace_back(at::conv2d(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, groups));
    return;
  }
  const at::Tensor all_x = Vmap::unwrap(x), all_weights = Vmap::unwrap(weight);
  at::Tensor y;
  {
    const WithoutVmap without_vmap;
    y = by_matrices(all_x, all_weights, geometry);
  }
  y = Vmap::wrap(y);
  stack.emplace_back(bias.defined() ? y + bias.view({-1, 1, 1}) : y);
}

/// Makes the interpreter know it3::conv2d.
void register_operator() {
  static const torch::jit::RegisterOperators once(
      {torch::jit::Operator(schema, run, c10::AliasAnalysisKind::FROM_SCHEMA)});
}

}  // namespace

void set_convolutions_of_each(torch::jit::Graph& graph) {
  register_operator();
  std::vector<Node*> nodes;
  for_each_node(graph.block(), [&](Node* node) {
    const bool has_numbers =
        node->kind() == c10::aten::conv2d && node->input(4)->type()->kind() == c10::TypeKind::ListType;
    if (has_numbers) nodes.push_back(node);
  });
  for (Node* node : nodes) {
    const torch::jit::WithInsertPoint here(node);
    Node* const own = graph.insertNode(graph.create(c10::Symbol::fromQualString("it3::conv2d"), node->inputs()));
    own->output()->setType(node->output()->type());
    node->output()->replaceAllUsesWith(own->output());
    node->destroy();
  }
}

}  // namespace it3::detail
