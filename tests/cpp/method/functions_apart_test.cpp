#include "method/functions_apart.h"

#include <gtest/gtest.h>

#include "error_of.h"
#include "network_fixture.h"

namespace it3::test {
namespace {

const Options two_steps{.num_steps = 2, .lr = 0.1};

TEST(FunctionsApart, RaiseForAWeightThatAdaptsInTheModelItself) {
  Problem problem;
  const auto weight = problem.net->last->weight;  // (3, 8)
  Method method = problem.method();
  method.embed = [weight](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(weight); };
  const auto before = weight.detach().clone();
  const std::string error = error_of([&] { adapt(*problem.network, method, two_steps, problem.x); });
  EXPECT_NE(error.find("the embedder computes with the model's weight 'last.weight'"), std::string::npos) << error;
  EXPECT_TRUE(torch::equal(weight, before));

  // What the error advises.
  method.embed = [before](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(before); };
  const auto by_copy = adapt(*problem.network, method, two_steps, problem.x).prediction;
  EXPECT_TRUE(by_copy.isfinite().all().item<bool>());
  method.embed = [weight](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(weight); };
  Options others = two_steps;
  others.parameters = {"first"};
  EXPECT_EQ(adapt(*problem.network, method, others, problem.x).steps(), 2);
}

TEST(FunctionsApart, LookAtEachFunction) {
  const auto weight = torch::randn({3, 3}, f64).requires_grad_();
  const auto use = [weight](const at::Tensor& a, const at::Tensor&) { return torch::cat({a, weight.detach()}); };
  const auto pass = [](const at::Tensor& a, const at::Tensor&) { return a + 1; };
  const auto x = torch::randn({3, 3}, f64);
  const std::vector<NamedParameter> adapted = {{"w", weight}};
  const auto method = [&](const auto& embed, const auto& combine, const auto& distance) {
    return detail::functions_apart({embed, combine, Distance(DistanceFunction(distance))}, adapted);
  };
  EXPECT_NE(error_of([&] { method(use, pass, pass).embed(x, x); }).find("the embedder"), std::string::npos);
  EXPECT_NE(error_of([&] { method(pass, use, pass).combine(x, x); }).find("combine"), std::string::npos);
  EXPECT_NE(
      error_of([&] { method(pass, pass, use).distance.to_prediction(x, x); }).find("distance_fn"), std::string::npos);
  EXPECT_TRUE(torch::equal(method(pass, pass, pass).embed(x, x), x + 1));
  // As an argument, a weight is what the function is for.
  EXPECT_TRUE(torch::equal(method(pass, pass, pass).combine(weight, x), weight + 1));
}

TEST(FunctionsApart, MayCallOneAnother) {
  const auto weight = torch::randn({3}, f64), other = torch::randn({3}, f64);
  const std::vector<NamedParameter> adapted = {{"w", weight}}, of_other = {{"v", other}};
  const auto inner = detail::functions_apart(
      {[](const at::Tensor& a, const at::Tensor&) { return a * 2; }, nullptr, distance_by_name("mse")}, of_other);
  const auto outer = detail::functions_apart(
      {[&](const at::Tensor& a, const at::Tensor& b) { return inner.embed(a, b) + weight; }, nullptr,
       distance_by_name("mse")},
      adapted);
  const auto x = torch::randn({3}, f64);
  EXPECT_NE(error_of([&] { outer.embed(x, x); }).find("'w'"), std::string::npos);
  EXPECT_TRUE(torch::equal(inner.embed(x, x), x * 2));
}

TEST(Online, IsNotKeptFromInsideOfACall) {
  Problem problem;
  Engine keeps(problem.network, {.lr = 0.1, .copy_model = false}, problem.method().embed);
  keeps.adapt(problem.x);
  const auto kept = problem.net->last->weight.detach().clone();
  for (const bool resets : {false, true}) {
    Engine calls(
        problem.network, {}, problem.method().embed, nullptr, Distance([&](const at::Tensor& a, const at::Tensor& b) {
          if (resets) {
            keeps.reset();
          } else {
            keeps.adapt(problem.x);
          }
          return torch::mse_loss(a, b);
        }));
    EXPECT_THROW(calls.adapt(problem.x), c10::Error);
    EXPECT_TRUE(torch::equal(problem.net->last->weight, kept));
  }
}

}  // namespace
}  // namespace it3::test
