#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "network_fixture.h"

namespace it3::test {
namespace {

/// Runs a function of the thread's number in eight threads at once.
template <typename Function>
void in_threads(const Function& function) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&function, i] { function(i); });
  for (auto& thread : threads) thread.join();
}

std::vector<at::Tensor> values_of(const torch::nn::Module& module) {
  std::vector<at::Tensor> values;
  for (const auto& p : module.parameters()) values.push_back(p.detach().clone());
  return values;
}

std::vector<at::Tensor> batches() {
  std::vector<at::Tensor> all;
  for (int i = 0; i < 8; ++i) all.push_back(torch::randn({4, 5}));
  return all;
}

TEST(Threads, AdaptOneModelAsInTurn) {
  torch::manual_seed(0);
  const torch::nn::Sequential model(
      {{"a", torch::nn::Linear(5, 8)}, {"b", torch::nn::Tanh()}, {"c", torch::nn::Linear(8, 3)}});
  Engine engine(std::make_shared<ModuleNetwork>(model, "a"), {.lr = 1e-2});
  // Around the same model, and around a part of it.
  Engine other(std::make_shared<ModuleNetwork>(model, "b"), {.lr = 1e-2, .parameters = {"c"}});
  Engine part(
      std::make_shared<ModuleNetwork>(
          torch::nn::Sequential({{"c", model->ptr<torch::nn::LinearImpl>(2)}, {"d", torch::nn::Tanh()}}), "c"),
      {.lr = 1e-2});
  const auto x = batches();
  const auto h = torch::randn({4, 8});
  const auto before = values_of(*model);
  std::vector<at::Tensor> expected, of_other;
  for (const auto& batch : x) expected.push_back(engine.adapt(batch).prediction);
  for (const auto& batch : x) of_other.push_back(other.adapt(batch).prediction);
  const auto of_part = part.adapt(h).prediction;
  const auto unsure = engine.uncertainty(x[0]);
  std::atomic<int> wrong = 0;
  in_threads([&](int thread) {
    for (int call = 0; call < 40; ++call) {
      const auto i = static_cast<std::size_t>(call + thread) % x.size();
      if (thread % 3 == 0 && !torch::equal(other.adapt(x[i]).prediction, of_other[i])) ++wrong;
      if (thread % 3 == 1 && !torch::equal(part.adapt(h).prediction, of_part)) ++wrong;
      if (!torch::equal(engine.adapt(x[i]).prediction, expected[i])) ++wrong;
      if (!torch::equal(engine.uncertainty(x[0]), unsure)) ++wrong;
    }
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(equal(values_of(*model), before));
  for (const auto& p : model->parameters()) EXPECT_TRUE(p.requires_grad());
}

TEST(Threads, ShapeTheEmbedderOnce) {
  Problem problem;
  for (int attempt = 0; attempt < 5; ++attempt) {
    Engine engine(problem.network);
    std::vector<at::Tensor> predictions(8);
    in_threads([&](int thread) { predictions[static_cast<std::size_t>(thread)] = engine.adapt(problem.x).prediction; });
    for (const auto& p : predictions) EXPECT_TRUE(torch::equal(p, predictions[0]));
  }
}

TEST(Threads, KeepAdaptedWeightsOneAfterAnother) {
  Problem problem, serial;
  Engine a(problem.network, {.num_steps = 1, .copy_model = false}), b(problem.network, a.options, a.embedder());
  a.uncertainty(problem.x);  // shapes the embedder
  Engine one(serial.network, a.options, a.embedder()), two(serial.network, a.options, a.embedder());
  const auto before = problem.snapshot();
  in_threads([&](int thread) { (thread < 4 ? a : b).adapt(problem.x); });
  EXPECT_GT(a.drift().distance, 0);
  a.reset();
  b.reset();
  EXPECT_TRUE(equal(problem.snapshot(), before));
}

TEST(Threads, TrainAndAdaptInTurn) {
  Problem problem;
  Engine engine(problem.network);
  const auto target = torch::randn({6, 3}, f64);
  const auto expected = engine.adapt(problem.x).prediction;
  const auto loss = engine.losses(problem.x, target).loss_ttt.detach();
  std::atomic<int> wrong = 0;
  in_threads([&](int thread) {
    for (int call = 0; call < 20; ++call) {
      if (thread % 2 == 0 && !torch::equal(engine.losses(problem.x, target).loss_ttt, loss)) ++wrong;
      if (thread % 2 == 1 && !torch::equal(engine.adapt(problem.x).prediction, expected)) ++wrong;
    }
  });
  EXPECT_EQ(wrong, 0);
}

TEST(Threads, WeightsAreKeptWhenNobodyReadsThem) {
  torch::manual_seed(0);
  torch::jit::Module module("m");
  torch::jit::Module layer("l");
  layer.define("def forward(self, x):\n  return torch.tanh(x)\n");
  module.register_module("layer", layer);
  module.register_parameter("w", torch::randn({5, 8}, f64).requires_grad_(), false);
  module.register_parameter("v", torch::randn({8, 3}, f64).requires_grad_(), false);
  module.define("def forward(self, x):\n  return self.layer.forward(x.matmul(self.w)).matmul(self.v)\n");
  ScriptNetwork network(module, "layer");
  const at::Tensor x = torch::randn({6, 5}, f64), embedding = torch::randn({3, 8}, f64);
  std::atomic<bool> is_in_the_middle = false, has_kept = false;
  bool waits = false;
  const auto combine = [](const at::Tensor& f, const at::Tensor& e) { return f + e; };
  const Method reading{
      [&](const at::Tensor& y, const at::Tensor&) {
        is_in_the_middle = waits;
        for (int i = 0; waits && i < 200 && !has_kept; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return y.matmul(embedding);
      },
      combine, distance_by_name("mse")};
  const Method keeping{
      [&](const at::Tensor& y, const at::Tensor&) { return y.matmul(embedding); }, combine, distance_by_name("mse")};
  const auto read = [&] { return adapt(network, reading, {.num_steps = 0}, x, nullptr, true).second; };
  const at::Tensor expected = read(), before = module.attr("v").toTensor().detach().clone();
  waits = true;
  Online online;
  std::thread keeper([&] {
    while (!is_in_the_middle) std::this_thread::yield();
    adapt(network, keeping, {.lr = 0.1, .copy_model = false}, x, &online);
    has_kept = true;
  });
  EXPECT_TRUE(torch::equal(read(), expected));
  keeper.join();
  EXPECT_FALSE(torch::equal(module.attr("v").toTensor(), before));
}

}  // namespace
}  // namespace it3::test
