#pragma once

#include <torch/torch.h>

#include <it3/it3.h>

namespace it3::test {

inline constexpr auto f64 = torch::kFloat64;

/// A model with a skip connection across the injection point and batch normalization, in float64.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    to(f64);
    eval();
  }

  at::Tensor forward(const at::Tensor& x) {
    const auto hidden = torch::tanh(norm(first(x)));
    return last(torch::tanh(point(middle(hidden)) + hidden));
  }

  torch::nn::Linear first = register_module("first", torch::nn::Linear(5, 8));
  torch::nn::BatchNorm1d norm = register_module("norm", torch::nn::BatchNorm1d(8));
  torch::nn::Linear middle = register_module("middle", torch::nn::Linear(8, 8));
  InjectionPoint point = register_module("point", InjectionPoint());
  torch::nn::Linear last = register_module("last", torch::nn::Linear(8, 3));
};
TORCH_MODULE(Net);

inline Adaptation adapt(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online* online = nullptr,
    bool with_details = false) {
  return it3::adapt(
      {.network = network,
       .method = method,
       .options = options,
       .inputs = inputs,
       .online = online,
       .with_details = with_details});
}

/// A net, inputs, and what to adapt it with.
struct Problem {
  Problem() {
    torch::manual_seed(0);
    net = Net();
    x = torch::randn({6, 5}, f64);
    embedding = torch::randn({3, 8}, f64);
    network = std::make_shared<ModuleNetwork>(net);
  }

  Method method() const {
    return {
        [e = embedding](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(e); },
        [](const at::Tensor& features, const at::Tensor& embedded) { return features + embedded; },
        distance_by_name("mse")};
  }

  std::vector<at::Tensor> snapshot() const {
    std::vector<at::Tensor> values;
    for (const auto& t : net->parameters()) values.push_back(t.detach().clone());
    for (const auto& t : net->buffers()) values.push_back(t.clone());
    return values;
  }

  Net net{nullptr};
  at::Tensor x, embedding;
  std::shared_ptr<ModuleNetwork> network;
};

inline bool equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](const auto& s, const auto& t) { return torch::equal(s, t); });
}

inline bool close(const at::Tensor& a, const at::Tensor& b) { return torch::allclose(a, b, 1e-10, 1e-10); }

}  // namespace it3::test
