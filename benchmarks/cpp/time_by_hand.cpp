// Times the passes that IT3 needs, written by hand for the network 13-64-64-64-1 and its first layer, without an
// engine.
#include <torch/torch.h>

#include "blocks.h"

namespace {

using Tensors = std::vector<at::Tensor>;

/// Weights and biases of linear layers, in turn.
Tensors linear_layers(const std::vector<std::int64_t>& sizes, bool requires_grad) {
  Tensors weights;
  for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
    const torch::nn::Linear layer(sizes[i], sizes[i + 1]);
    for (const at::Tensor& p : {layer->weight, layer->bias})
      weights.push_back(p.detach().requires_grad_(requires_grad));
  }
  return weights;
}

at::Tensor tail(const at::Tensor& features, const Tensors& w) {
  const at::Tensor a = at::linear(features.relu(), w[2], w[3]);
  return at::linear(at::linear(a.relu(), w[4], w[5]).relu(), w[6], w[7]);
}

at::Tensor embed(const at::Tensor& y, const Tensors& e) {
  return at::leaky_relu(at::linear(at::leaky_relu(at::linear(y, e[0], e[1])), e[2], e[3]));
}

at::Tensor adapt(const at::Tensor& x, const Tensors& start, const Tensors& embedder, std::int64_t steps) {
  Tensors w, momentum, squares;
  for (const at::Tensor& p : start) {
    w.push_back(p.detach().clone().requires_grad_());
    momentum.push_back(at::zeros_like(p));
    squares.push_back(at::zeros_like(p));
  }
  const Tensors counts(w.size(), at::zeros({}));
  for (std::int64_t step = 0; step < steps; ++step) {
    const at::Tensor features = at::linear(x, w[0], w[1]);
    const at::Tensor y0 = tail(features, w);
    const at::Tensor y1 = tail(features + embed(y0, embedder), w);
    const Tensors gradients = torch::autograd::grad({at::mse_loss(y1, y0)}, w);
    const at::NoGradGuard no_grad;
    counts[0].add_(1);
    at::_fused_adam_(w, gradients, momentum, squares, {}, counts, 1e-3, 0.9, 0.999, 0, 1e-8, false, false);
  }
  const at::NoGradGuard no_grad;
  return tail(at::linear(x, w[0], w[1]), w);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const Arguments arguments(argv);
  const Tensors start = linear_layers({13, 64, 64, 64, 1}, /*requires_grad=*/true);
  const Tensors embedder = linear_layers({1, 64, 64}, /*requires_grad=*/false);
  time_blocks(arguments.calls, [&] { adapt(arguments.inputs, start, embedder, arguments.steps); });
}
