#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "network_fixture.h"

namespace it3::test {

inline const std::string plain_forward = R"(
def forward(self, x):
  h = torch.tanh(torch.linear(x, self.w0, self.b0))
  return torch.linear(torch.tanh(self.layer.forward(h) + h), self.w1, self.b1)
)";

/// Two layers with the injection in between: y = w1 tanh(h + injected + h) + b1, h = tanh(w0 x + b0).
inline torch::jit::Module two_layers(const std::string& forward = plain_forward) {
  torch::jit::Module layer("Layer");
  layer.define("def forward(self, x):\n  return x.clone()\n");
  torch::jit::Module module("Net");
  module.register_module("layer", layer);
  const std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes = {
      {"w0", {8, 5}}, {"b0", {8}}, {"w1", {3, 8}}, {"b1", {3}}};
  for (const auto& [name, shape] : shapes) {
    module.register_parameter(name, (torch::randn(shape, f64) / 2).requires_grad_(), /*is_buffer=*/false);
  }
  module.define(forward);
  return module;
}

using Weights = std::map<std::string, at::Tensor>;

struct PerSampleProblem {
  PerSampleProblem() {
    torch::manual_seed(0);
    module = two_layers();
    x = torch::randn({7, 5}, f64) * torch::linspace(0.2, 2, 7, f64).unsqueeze(1);
    embedding = torch::randn({3, 8}, f64);
  }

  Weights weights() const {
    Weights copies;
    for (const auto& p : module.named_parameters()) copies.emplace(p.name, p.value.detach().clone().requires_grad_());
    return copies;
  }

  /// y0, and y1 for a signal, by the formula.
  at::Tensor formula(Weights& w, const at::Tensor& sample, const std::optional<at::Tensor>& signal = {}) const {
    const at::Tensor h = torch::tanh(torch::linear(sample, w["w0"], w["b0"]));
    const at::Tensor injected = signal ? h + signal->matmul(embedding) : h;
    return torch::linear(torch::tanh(injected + h), w["w1"], w["b1"]);
  }

  Method method() const {
    return {
        [e = embedding](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(e); },
        [](const at::Tensor& features, const at::Tensor& embedded) { return features + embedded; },
        distance_by_name("mse")};
  }

  /// ‖y1 − y0‖ of each sample, before anything adapts.
  at::Tensor distances() const {
    Weights w = weights();
    const at::Tensor y0 = formula(w, x);
    return (formula(w, x, y0) - y0).norm(2, 1).detach();
  }

  torch::jit::Module module{"unset"};
  at::Tensor x, embedding;
};

}  // namespace it3::test
