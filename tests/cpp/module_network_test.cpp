#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(ModuleNetwork, NeedsOneInjectionPoint) {
  EXPECT_THROW(ModuleNetwork{torch::nn::Sequential(torch::nn::Linear(2, 2))}, c10::ValueError);
  EXPECT_THROW(ModuleNetwork{torch::nn::Sequential(InjectionPoint(), InjectionPoint())}, c10::ValueError);
}

TEST(ModuleNetwork, InjectsInASequential) {
  torch::manual_seed(0);
  const torch::nn::Linear a(3, 4), b(4, 2);
  ModuleNetwork network(torch::nn::Sequential(a, InjectionPoint(), torch::nn::Tanh(), b));
  const auto x = torch::randn({5, 3});
  const FirstPass first = network.predict(x);
  const auto hidden = x.matmul(a->weight.t()) + a->bias;
  EXPECT_TRUE(torch::allclose(first.prediction, hidden.tanh().matmul(b->weight.t()) + b->bias));
  const auto second = network.resume(x, first, [](const at::Tensor& features) { return features * 2; });
  EXPECT_TRUE(torch::allclose(second, (hidden * 2).tanh().matmul(b->weight.t()) + b->bias));
}

TEST(ModuleNetwork, SaysIfThePointIsNotReached) {
  auto module = torch::nn::Sequential(torch::nn::Linear(3, 2), InjectionPoint());
  ModuleNetwork network(module.ptr(), [](const Inputs& inputs) { return inputs.args[0].toTensor(); });
  const auto x = torch::randn({5, 3});
  EXPECT_THROW(network.resume(x, network.predict(x), [](const at::Tensor& features) { return features; }), c10::Error);
}

TEST(ModuleNetwork, NamesEachParameterOnce) {
  Net net;
  net->last->bias = net->register_parameter("tied", net->first->bias);
  ModuleNetwork network(net);
  std::vector<std::string> names, of_normalisation;
  for (const auto& parameter : network.parameters()) {
    names.push_back(parameter.name);
    if (parameter.of_normalisation) of_normalisation.push_back(parameter.name);
  }
  EXPECT_EQ(names.size(), 8);
  EXPECT_EQ(of_normalisation, (std::vector<std::string>{"norm.weight", "norm.bias"}));
}

}  // namespace
}  // namespace it3::test
