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

/// The places that a kernel looks at: (N, C, H, W) -> (N, C * h * w, places of the result). at::im2col, which makes the
/// same, runs one kernel for each image.
at::Tensor columns_of(const at::Tensor& images, at::IntArrayRef kernel, const Geometry& g) {
  if (g.dilation[0] != 1 || g.dilation[1] != 1) return at::im2col(images, kernel, g.dilation, g.padding, g.stride);
  const at::Tensor padded = at::constant_pad_nd(images, {g.padding[1], g.padding[1], g.padding[0], g.padding[0]});
  const at::Tensor patches = padded.unfold(2, kernel[0], g.stride[0]).unfold(3, kernel[1], g.stride[1]);
  return patches.permute({0, 1, 4, 5, 2, 3}).flatten(1, 3).flatten(2);
}

/// weight * columns of x, each sample by its own: x (samples, n, C, H, W), weight (samples, O, C, h, w).
at::Tensor by_matrices(const at::Tensor& x, const at::Tensor& weight, const Geometry& g) {
  const auto kernel = weight.sizes().slice(3);
  std::vector<std::int64_t> places;
  for (std::size_t d = 0; d < 2; ++d) {
    const std::int64_t size = x.sizes()[d + 3] + 2 * g.padding[d] - g.dilation[d] * (kernel[d] - 1) - 1;
    places.push_back(size / g.stride[d] + 1);
  }
  const at::Tensor columns = columns_of(x.flatten(0, 1), kernel, g).unflatten(0, x.sizes().slice(0, 2));
  return at::matmul(weight.flatten(2).unsqueeze(1), columns).unflatten(-1, places);
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
