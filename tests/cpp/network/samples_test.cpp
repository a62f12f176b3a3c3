#include <gtest/gtest.h>

#include "network_fixture.h"

namespace it3::test {
namespace {

c10::IValue tuple(std::vector<c10::IValue> elements) { return c10::ivalue::Tuple::create(std::move(elements)); }

at::Tensor tensor_of(const Inputs& inputs, std::size_t i) { return inputs.args.at(i).toTensor(); }

TEST(Samples, LieWhereTheLayoutSays) {
  const auto x = torch::arange(24, f64).reshape({2, 3, 4});
  const Samples first(Inputs(x), std::nullopt, {});
  EXPECT_EQ(first.count(), 2);
  EXPECT_TRUE(torch::equal(tensor_of(first.slice(1, 1), 0), x.slice(0, 1)));
  const Samples second(Inputs(x), std::nullopt, {.channel_dim = -1, .batch_dim = 1});
  EXPECT_EQ(second.count(), 3);
  EXPECT_TRUE(torch::equal(tensor_of(second.slice(1, 2), 0), x.slice(1, 1)));
  EXPECT_TRUE(
      torch::equal(
          tensor_of(second.select(torch::tensor({2, 2, 0})), 0),
          x.index({"...", torch::tensor({2, 2, 0}), torch::indexing::Slice()})));
  const auto stacked = tensor_of(second.stack(0, 3), 0);
  ASSERT_EQ(stacked.sizes(), (std::vector<std::int64_t>{3, 2, 1, 4}));
  for (std::int64_t i = 0; i < 3; ++i) EXPECT_TRUE(torch::equal(stacked[i], x.slice(1, i, i + 1)));
}

TEST(Samples, AreToldByInDims) {
  const auto x = torch::randn({4, 6}, f64), shared = torch::randn({4, 5}, f64);
  const Inputs inputs({x, shared});
  EXPECT_THROW(Samples(inputs, std::nullopt, {}), c10::ValueError);
  const Samples samples(inputs, tuple({0, c10::IValue()}), {});
  EXPECT_TRUE(torch::equal(tensor_of(samples.slice(2, 1), 0), x.slice(0, 2, 3)));
  EXPECT_TRUE(torch::equal(tensor_of(samples.slice(2, 1), 1), shared));
  EXPECT_EQ(tensor_of(samples.stack(0, 4), 1).sizes(), (std::vector<std::int64_t>{4, 4, 5}));
  EXPECT_THROW(Samples(inputs, tuple({0}), {}), c10::ValueError);
  EXPECT_THROW(Samples(inputs, tuple({0, 7}), {}), c10::ValueError);
  EXPECT_THROW(Samples(inputs, tuple({0, 1}), {}), c10::ValueError);  // 4 samples and 5
  Inputs keywords({}, {{"x", x}, {"shared", shared}});
  c10::impl::GenericDict dict(c10::StringType::get(), c10::AnyType::get());
  dict.insert("x", 0);
  EXPECT_THROW(Samples(keywords, c10::IValue(dict), {}), c10::ValueError);
  dict.insert("shared", c10::IValue());
  EXPECT_EQ(Samples(keywords, c10::IValue(dict), {}).count(), 4);
}

TEST(Feedback, IsSoftmaxOverTheClasses) {
  const auto y = torch::randn({2, 3, 4}, f64);
  EXPECT_TRUE(close(class_probabilities(y), torch::softmax(y, 2)));
  EXPECT_TRUE(close(class_probabilities(y, {.channel_dim = 1}), torch::softmax(y, 1)));
  EXPECT_THROW(class_probabilities(torch::randn({3, 1}, f64)), c10::ValueError);
  EXPECT_TRUE(are_probabilities(torch::softmax(y, 2)));
  EXPECT_FALSE(are_probabilities(torch::softmax(y, 1)));
  EXPECT_FALSE(are_probabilities(y));
}

TEST(Distance, SumsOverTheClassesOfTheLayout) {
  const auto y1 = torch::randn({2, 3, 4}, f64), y0 = torch::randn({2, 3, 4}, f64);
  const auto kl = [&](std::int64_t dim) {
    const auto log_p = torch::log_softmax(y0, dim), log_q = torch::log_softmax(y1, dim);
    return (log_p.exp() * (log_p - log_q)).sum(dim).mean();
  };
  EXPECT_TRUE(close(distance_by_name("kl").to_prediction(y1, y0), kl(2)));
  EXPECT_TRUE(close(distance_by_name("kl", {.channel_dim = 1}).to_prediction(y1, y0), kl(1)));
  EXPECT_THROW(distance_by_name("kl").to_prediction(y1.slice(2, 0, 1), y0.slice(2, 0, 1)), c10::ValueError);
}

TEST(Engine, TellsOfAnInjectionWithoutEffect) {
  struct UnusedImpl : torch::nn::Module {
    at::Tensor forward(const at::Tensor& x) {
      point(layer(x));
      return head(x);
    }
    torch::nn::Linear layer = register_module("layer", torch::nn::Linear(5, 8));
    InjectionPoint point = register_module("point", InjectionPoint());
    torch::nn::Linear head = register_module("head", torch::nn::Linear(5, 3));
  };
  Engine engine(std::make_shared<UnusedImpl>());
  EXPECT_THROW(engine.adapt(torch::randn({4, 5})), c10::ValueError);
  EXPECT_THROW(engine.losses(torch::randn({4, 5}), torch::randn({4, 3})), c10::ValueError);
}

TEST(Engine, TakesInputsWithAGraphAsConstants) {
  torch::manual_seed(0);
  torch::nn::Sequential model(
      {{"encoder", torch::nn::Linear(5, 8)}, {"tanh", torch::nn::Tanh()}, {"head", torch::nn::Linear(8, 2)}});
  Engine engine(std::make_shared<ModuleNetwork>(model, "encoder"));
  const torch::nn::Linear before(5, 5);
  const auto x = torch::nn::Linear(5, 5)->forward(torch::randn({4, 5}));
  const Adaptation attached = engine.adapt(x), detached = engine.adapt(x.detach());
  EXPECT_TRUE(torch::equal(attached.prediction, detached.prediction));
  EXPECT_TRUE(torch::equal(attached.losses, detached.losses));
}

}  // namespace
}  // namespace it3::test
