#include <it3/backend/first_call.h>

#include <atomic>
#include <thread>

#include "error_of.h"
#include "lazy_embedder.h"
#include "network_fixture.h"

namespace it3::test {
namespace {

EngineSetup look(const Problem& problem, const EngineSetup& setup) {
  const Inputs inputs(problem.x);
  Network& network = *problem.network;
  return look_at_first(
      {network, inputs, setup, setup.method({})}, network.origin_of_prediction(), network.origin_of_features());
}

TEST(LookAtFirst, TellsTheChannels) {
  torch::manual_seed(0);
  const auto network = std::make_shared<ModuleNetwork>(
      torch::nn::Sequential(
          torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 1)), torch::nn::Tanh(),
          torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 3, 1))),
      "0");
  const Inputs inputs(torch::randn({2, 3, 4, 5}));
  EngineSetup setup = setup_with(nullptr);
  setup.functions.embed = [](const at::Tensor& prediction, const at::Tensor&) {
    return prediction.mean(1, /*keepdim=*/true).expand({-1, 8, -1, -1});
  };
  setup.functions.distance = distance_by_name("kl");
  const EngineSetup looked = look_at_first(
      {*network, inputs, setup, setup.method({})}, network->origin_of_prediction(), network->origin_of_features());
  EXPECT_EQ(looked.layouts.prediction.channel_dim, 1);
}

TEST(LookAtFirst, SettlesTheLayoutsAndLeavesTheEmbedderWithoutShape) {
  Problem problem;
  const auto embedder = std::make_shared<Lazy>();
  const EngineSetup setup = setup_with(embedder);
  const EngineSetup looked = look(problem, setup);
  EXPECT_FALSE(setup.is_looked_at);
  EXPECT_TRUE(looked.is_looked_at);
  EXPECT_FALSE(embedder->is_built());
  EXPECT_EQ(embedder->times_built, 1);
  EXPECT_EQ(looked.layouts.prediction, embedder->settled.prediction);
  EXPECT_EQ(looked.graphs, setup.graphs);
}

TEST(LookAtFirst, RefusesAnInjectionWithoutEffect) {
  Problem problem;
  EngineSetup setup = setup_with(std::make_shared<Lazy>());
  setup.functions.combine = [](const at::Tensor& features, const at::Tensor&) { return features.detach(); };
  EXPECT_NE(error_of([&] { look(problem, setup); }), "");
  EXPECT_FALSE(setup.functions.embedder->is_built());
}

TEST(FirstUse, OneThatFailsLeavesTheEmbedderWithoutShape) {
  const auto embedder = std::make_shared<Lazy>();
  EXPECT_FALSE(FirstUse::is_over(embedder));
  EXPECT_TRUE(FirstUse::is_over(nullptr));
  const auto fail = [&](const at::Tensor& weight) {
    try {
      const FirstUse first_use(embedder);
      embedder->weight = weight;
      throw std::runtime_error("fails");
    } catch (const std::runtime_error&) {
    }
  };
  fail(torch::ones({3, 8}, f64));
  EXPECT_FALSE(embedder->is_built());
  {
    const FirstUse first_use(embedder);
    embedder->weight = torch::ones({3, 8}, f64);
  }
  EXPECT_TRUE(FirstUse::is_over(embedder));
  fail(embedder->weight);
  EXPECT_TRUE(embedder->is_built());  // as it was before
}

TEST(FirstUse, EnginesThatShareAnEmbedderShapeItOnce) {
  for (int round = 0; round < 10; ++round) {
    const auto embedder = std::make_shared<Lazy>();
    std::atomic<int> begun = 0;
    std::vector<Problem> problems(4);  // all the same
    std::vector<std::thread> threads;
    std::vector<at::Tensor> predictions(4);
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        const Problem& problem = problems[static_cast<std::size_t>(i)];
        const Inputs inputs(problem.x);
        ++begun;
        while (begun < 4) std::this_thread::yield();
        const FirstUse first_use(embedder);
        const Method method = look(problem, setup_with(embedder)).method({});
        predictions[static_cast<std::size_t>(i)] = adapt(*problem.network, method, {.lr = 0.1}, inputs).prediction;
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(embedder->times_built, 2);  // by the first look, which clears it, and by the call behind it
    for (const at::Tensor& prediction : predictions) EXPECT_TRUE(torch::equal(prediction, predictions[0]));
  }
}

}  // namespace
}  // namespace it3::test
