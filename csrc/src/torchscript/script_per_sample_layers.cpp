#include "torchscript/script_per_sample_layers.h"

#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/stack.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

#include "support/per_sample_linear.h"
#include "support/vmap.h"
#include "torchscript/script_graph.h"

namespace it3::detail {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

constexpr const char* linear_schema = "it3::linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor";
constexpr const char* convolution_schema =
    "it3::conv2d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> "
    "Tensor";

/// In autocast's dtype, where that is on.
at::Tensor cast(const at::Tensor& t) {
  const auto device = t.device().type();
  if (!at::autocast::is_autocast_enabled(device)) return t;
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), t, device);
}

/// What `product` makes of all samples and their weights, as one sample sees it. The bias comes last.
template <typename Product>
at::Tensor per_sample_product(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Product& product) {
  const at::Tensor all_x = Vmap::unwrap(x), all_weights = Vmap::unwrap(weight);
  at::Tensor y;
  {
    const WithoutVmap without_vmap;
    y = product(cast(all_x), cast(all_weights));
  }
  y = Vmap::wrap(y);
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

at::Tensor optional_tensor(const c10::IValue& value) { return value.isNone() ? at::Tensor() : value.toTensor(); }

void run_linear(Stack& stack) {
  const std::vector<c10::IValue> a = torch::jit::pop(stack, 3);
  const at::Tensor &x = a[0].toTensor(), &weight = a[1].toTensor(), bias = optional_tensor(a[2]);
  if (!Vmap::is_wrapped(weight) || weight.dim() != 2 || x.dim() < 2) {
    stack.emplace_back(at::linear(x, weight, bias));
    return;
  }
  stack.emplace_back(per_sample_product(x, weight, bias, [](const at::Tensor& all_x, const at::Tensor& all_weights) {
    return per_sample_linear(all_x.flatten(1, -2), all_weights).unflatten(1, all_x.sizes().slice(1, all_x.dim() - 2));
  }));
}

struct Geometry {
  std::vector<std::int64_t> stride, padding, dilation;
};

/// The patches that a kernel looks at: (N, C, H, W) -> (N, C * h * w, positions of the result). at::im2col, which makes
/// the same, runs one kernel for each image.
at::Tensor columns_of(const at::Tensor& images, at::IntArrayRef kernel, const Geometry& g) {
  if (g.dilation[0] != 1 || g.dilation[1] != 1) return at::im2col(images, kernel, g.dilation, g.padding, g.stride);
  const at::Tensor padded = at::constant_pad_nd(images, {g.padding[1], g.padding[1], g.padding[0], g.padding[0]});
  const at::Tensor patches = padded.unfold(2, kernel[0], g.stride[0]).unfold(3, kernel[1], g.stride[1]);
  return patches.permute({0, 1, 4, 5, 2, 3}).flatten(1, 3).flatten(2);
}

/// weight * columns of x, each sample by its own: x (samples, n, C, H, W), weight (samples, O, C, h, w).
at::Tensor by_matrices(const at::Tensor& x, const at::Tensor& weight, const Geometry& g) {
  const auto kernel = weight.sizes().slice(3);
  std::vector<std::int64_t> positions;
  for (std::size_t d = 0; d < 2; ++d) {
    const std::int64_t size = x.sizes()[d + 3] + 2 * g.padding[d] - g.dilation[d] * (kernel[d] - 1) - 1;
    positions.push_back(size / g.stride[d] + 1);
  }
  const at::Tensor columns = columns_of(x.flatten(0, 1), kernel, g).unflatten(0, x.sizes().slice(0, 2));
  return at::matmul(weight.flatten(2).unsqueeze(1), columns).unflatten(-1, positions);
}

std::vector<std::int64_t> pair_of(const c10::IValue& value) {
  std::vector<std::int64_t> pair = value.toIntVector();
  if (pair.size() == 1) pair.push_back(pair[0]);
  return pair;
}

void run_convolution(Stack& stack) {
  const std::vector<c10::IValue> a = torch::jit::pop(stack, 7);
  const at::Tensor &x = a[0].toTensor(), &weight = a[1].toTensor(), bias = optional_tensor(a[2]);
  const Geometry geometry = {pair_of(a[3]), pair_of(a[4]), pair_of(a[5])};
  const std::int64_t groups = a[6].toInt();
  if (!weight.is_cuda() || !Vmap::is_wrapped(weight) || groups != 1 || x.dim() != 4) {
    stack.emplace_back(at::conv2d(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, groups));
    return;
  }
  const at::Tensor of_channels = bias.defined() ? bias.view({-1, 1, 1}) : bias;
  stack.emplace_back(
      per_sample_product(x, weight, of_channels, [&](const at::Tensor& all_x, const at::Tensor& all_weights) {
        return by_matrices(all_x, all_weights, geometry);
      }));
}

/// Makes the interpreter know the layers.
void register_operators() {
  constexpr auto aliasing = c10::AliasAnalysisKind::FROM_SCHEMA;
  static const torch::jit::RegisterOperators once(
      {torch::jit::Operator(linear_schema, run_linear, aliasing),
       torch::jit::Operator(convolution_schema, run_convolution, aliasing)});
}

/// The name of what takes a node's place; null for nodes that stay.
const char* replacement_of(const Node& node) {
  if (node.kind() == c10::aten::linear) return "it3::linear";
  const bool is_convolution = node.kind() == c10::aten::conv2d;
  const bool has_numbers = is_convolution && node.input(4)->type()->kind() == c10::TypeKind::ListType;
  return has_numbers ? "it3::conv2d" : nullptr;
}

}  // namespace

void set_per_sample_layers(torch::jit::Graph& graph) {
  register_operators();
  std::vector<Node*> nodes;
  for_each_node(graph.block(), [&](Node* node) {
    if (replacement_of(*node) != nullptr) nodes.push_back(node);
  });
  for (Node* node : nodes) {
    const torch::jit::WithInsertPoint here(node);
    const auto kind = c10::Symbol::fromQualString(replacement_of(*node));
    Node* const own = graph.insertNode(graph.create(kind, node->inputs()));
    own->output()->setType(node->output()->type());
    node->output()->replaceAllUsesWith(own->output());
    node->destroy();
  }
}

}  // namespace it3::detail
