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
  const Inject inject([](const at::Tensor& features) { return features * 2; });
  const auto second = network.resume(x, first, &inject);
  EXPECT_TRUE(torch::allclose(second, (hidden * 2).tanh().matmul(b->weight.t()) + b->bias));
}

/// Counts its calls.
struct CountImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    ++calls;
    return x;
  }
  int calls = 0;
};
TORCH_MODULE(Count);

TEST(ModuleNetwork, CutsASequentialBehindANamedChild) {
  torch::manual_seed(0);
  const torch::nn::Linear a(3, 4), b(4, 4), c(4, 2);
  const Count before;
  const torch::nn::ReLU in_place(torch::nn::ReLUOptions().inplace(true));
  const torch::nn::Sequential model({{"a", a}, {"count", before}, {"b", b}, {"relu", in_place}, {"c", c}});
  const auto x = torch::randn({5, 3});
  const Inject twice([](const at::Tensor& features) { return features * 2; });
  const auto after_a = x.matmul(a->weight.t()) + a->bias;
  const auto after_b = after_a.matmul(b->weight.t()) + b->bias;
  const auto end = [&](const at::Tensor& y) { return y.relu().matmul(c->weight.t()) + c->bias; };

  ModuleNetwork at_b(model, "b");
  const FirstPass first = at_b.predict(x);
  EXPECT_TRUE(torch::allclose(first.prediction, end(after_b)));
  EXPECT_TRUE(torch::allclose(at_b.resume(x, first, &twice), end(after_b * 2)));
  EXPECT_EQ(before->calls, 1);  // what comes before runs once for both passes

  // Both kinds of cut adapt alike.
  const torch::nn::Sequential with_point(a, b, InjectionPoint(), torch::nn::ReLU(), c);
  Engine cut(std::make_shared<ModuleNetwork>(model, "b"));
  Engine pointed(std::make_shared<ModuleNetwork>(with_point), {}, cut.embedder());
  EXPECT_TRUE(torch::allclose(cut.adapt(x).prediction, pointed.adapt(x).prediction));
}

TEST(ModuleNetwork, SaysWhichChildrenThereAre) {
  const torch::nn::Sequential model({{"first", torch::nn::Linear(2, 2)}, {"last", torch::nn::Linear(2, 2)}});
  try {
    ModuleNetwork(model, "frst");
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("no child 'frst'; its children are first, last"), std::string::npos);
  }
}

TEST(ModuleNetwork, SaysIfThePointIsNotReached) {
  auto module = torch::nn::Sequential(torch::nn::Linear(3, 2), InjectionPoint());
  ModuleNetwork network(module.ptr(), [](const Inputs& inputs) { return inputs.args[0].toTensor(); });
  const auto x = torch::randn({5, 3});
  const Inject inject([](const at::Tensor& features) { return features; });
  EXPECT_THROW(network.resume(x, network.predict(x), &inject), c10::Error);
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
