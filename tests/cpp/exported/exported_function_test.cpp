#include <string>

#include <it3/it3.h>

#include "error_of.h"

namespace it3::test {
namespace {

/// a * weight - b, for as many rows of 3 in both.
ExportedGraph weighted_difference(const at::Tensor& weight) {
  const auto value = [](const char* name) { return ExportedArgument{ExportedArgument::Value{name}}; };
  ExportedGraph graph;
  graph.inputs = {{"a", {"s0", "3"}}, {"b", {"s0", "3"}}};
  graph.tensors = {{"w", "weight", weight, /*is_parameter=*/true}};
  graph.operations = {
      {"torch.ops.aten.mul.Tensor", {{"", value("a")}, {"", value("w")}}, {"product"}, false, {}},
      {"torch.ops.aten.sub.Tensor", {{"", value("product")}, {"", value("b")}}, {"difference"}, false, {}}};
  graph.output = "difference";
  return graph;
}

TEST(ExportedFunction, ComputesAndHasGradients) {
  const at::Tensor weight = torch::tensor({1.0F, 2.0F, 3.0F}).requires_grad_();
  const ExportedFunction function(weighted_difference(weight));
  for (const std::int64_t rows : {1, 4}) {
    const at::Tensor a = torch::randn({rows, 3}).requires_grad_(), b = torch::randn({rows, 3}).requires_grad_();
    const at::Tensor result = function(a, b);
    EXPECT_TRUE(torch::equal(result, a * weight - b));
    const auto gradients = torch::autograd::grad({result.sum()}, {a, b, weight});
    EXPECT_TRUE(torch::equal(gradients[0], weight.detach().expand_as(a)));
    EXPECT_TRUE(torch::equal(gradients[1], torch::full_like(b, -1)));
    EXPECT_TRUE(torch::allclose(gradients[2], a.detach().sum(0)));
  }
}

TEST(ExportedFunction, SeesItsTensorsAsTheyAre) {
  const at::Tensor weight = torch::ones({3}), a = torch::randn({2, 3}), b = torch::randn({2, 3});
  const ExportedFunction function(weighted_difference(weight));
  weight.mul_(2);
  EXPECT_TRUE(torch::equal(function(a, b), a * 2 - b));
}

TEST(ExportedFunction, RefusesOtherSizes) {
  const ExportedFunction function(weighted_difference(torch::ones({3})));
  const std::string error = error_of([&] { function(torch::ones({2, 1}), torch::ones({2, 3})); });
  EXPECT_NE(error.find("not for inputs of these sizes: [2, 1], [2, 3]"), std::string::npos) << error;
  EXPECT_NE(error_of([&] { function(torch::ones({2, 3}), torch::ones({4, 3})); }), "");
}

TEST(ExportedFunction, TakesOneTensorOrTwo) {
  ExportedGraph of_one = weighted_difference(torch::ones({3}));
  of_one.inputs.pop_back();
  of_one.operations.pop_back();
  of_one.output = "product";
  const at::Tensor a = torch::randn({2, 3});
  EXPECT_TRUE(torch::equal(ExportedFunction(of_one)(a, torch::ones({7})), a));
  ExportedGraph of_three = weighted_difference(torch::ones({3}));
  of_three.inputs.push_back({"c", {"s0"}});
  EXPECT_NE(
      error_of([&] { ExportedFunction{of_three}; }).find("takes 3 tensors; a function of an engine takes one or two"),
      std::string::npos);
}

TEST(ExportedFunction, IsAFunctionOfAnEngine) {
  torch::manual_seed(0);
  const torch::nn::Sequential model(torch::nn::Linear(4, 3), torch::nn::Tanh(), torch::nn::Linear(3, 3));
  const at::Tensor weight = torch::tensor({1.0F, 2.0F, 3.0F}), x = torch::randn({5, 4});
  const auto adapted_by = [&](const Combine& combine, const DistanceFunction& distance) {
    const auto network = std::make_shared<ModuleNetwork>(model, "0");
    Engine engine(
        network, Options{.num_steps = 3}, [](const at::Tensor& y, const at::Tensor&) { return y.tanh(); }, combine,
        Distance(distance));
    engine.set_trained(true);
    return engine.adapt(x).prediction;
  };
  const ExportedFunction function(weighted_difference(weight));
  const auto same = [&](const at::Tensor& a, const at::Tensor& b) { return a * weight - b; };
  const auto squares_of = [](const auto& each) {
    return [each](const at::Tensor& a, const at::Tensor& b) { return each(a, b).square().mean(); };
  };
  EXPECT_TRUE(torch::equal(adapted_by(function, squares_of(function)), adapted_by(same, squares_of(same))));
}

}  // namespace
}  // namespace it3::test
