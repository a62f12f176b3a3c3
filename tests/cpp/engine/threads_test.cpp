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

TEST(ModelLock, IsSharedByWhoeverNamesAPart) {
  const auto t = torch::randn({2});
  const ModelLock first({t}), second({t, torch::randn({2})});
  auto turn = std::make_unique<ModelLock::Turn>(first.wait(UpgradeMutex::Use::alone));
  {
    const auto again = second.wait(UpgradeMutex::Use::alone);
    const auto nothing = ModelLock().wait(UpgradeMutex::Use::alone);
  }
  std::atomic<bool> has_come = false;
  std::thread other([&] {
    const auto its_turn = ModelLock({t}).wait(UpgradeMutex::Use::alone);
    has_come = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(has_come);
  turn.reset();
  other.join();
  EXPECT_TRUE(has_come);
}

TEST(UpgradeMutex, RefusesToWaitForWhoMayWaitForIt) {
  using Use = UpgradeMutex::Use;
  UpgradeMutex mutex;
  mutex.lock(Use::reading);
  std::atomic<bool> has_it = false;
  std::thread other([&] {
    mutex.lock(Use::updating);
    has_it = true;
    mutex.lock(Use::alone);  // waits for this thread
    mutex.unlock(Use::alone);
    mutex.unlock(Use::updating);
  });
  while (!has_it) std::this_thread::yield();
  EXPECT_THROW(mutex.lock(Use::updating), c10::Error);
  EXPECT_THROW(mutex.lock(Use::alone), c10::Error);
  mutex.lock(Use::reading);
  mutex.unlock(Use::reading);
  mutex.unlock(Use::reading);
  other.join();
}

TEST(UpgradeMutex, RefusesACircleOfWaitsThroughSeveralMutexes) {
  // Three threads, each with the mutex that the one before it wants: the last one to wait would wait for ever.
  using Use = UpgradeMutex::Use;
  constexpr int count = 3;
  std::vector<UpgradeMutex> mutexes(count);
  std::atomic<int> have_own = 0, refused = 0, ended = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      UpgradeMutex &own = mutexes[i], &next = mutexes[(i + 1) % count];
      own.lock(i == 0 ? Use::reading : i == 1 ? Use::updating : Use::alone);
      ++have_own;
      while (have_own < count) std::this_thread::yield();
      try {
        next.lock(Use::alone);
        next.unlock(Use::alone);
      } catch (const c10::Error&) {
        ++refused;
      }
      own.unlock(i == 0 ? Use::reading : i == 1 ? Use::updating : Use::alone);
      ++ended;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ended, count);
  EXPECT_EQ(refused, 1);
  for (auto& mutex : mutexes) EXPECT_TRUE(mutex.try_lock(Use::alone));
  for (auto& mutex : mutexes) mutex.unlock(Use::alone);
}

TEST(UpgradeMutex, LetsWhoWaitsForTwoReadersComeToItsEnd) {
  // No circle: a thread that has one mutex waits for another one, whose reader waits for nobody.
  using Use = UpgradeMutex::Use;
  UpgradeMutex first, second;
  std::atomic<bool> reads = false, has_waited = false;
  std::thread reader([&] {
    second.lock(Use::reading);
    reads = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(has_waited);
    second.unlock(Use::reading);
  });
  while (!reads) std::this_thread::yield();
  first.lock(Use::reading);
  second.lock(Use::alone);
  has_waited = true;
  second.unlock(Use::alone);
  first.unlock(Use::reading);
  reader.join();
}

TEST(ModelLock, LetsWhoUpdatesComeToItsEnd) {
  // One of two models with a part in common updates, another thread wants the part alone, and a third one reads all.
  using Use = UpgradeMutex::Use;
  const auto own = torch::randn({2}), shared = torch::randn({2});
  const ModelLock part({shared}), whole({own, shared});
  std::atomic<int> ended = 0;
  std::atomic<bool> waits = false;
  std::thread alone, reads;
  {
    const auto updating = whole.wait(Use::updating);
    alone = std::thread([&] {
      waits = true;
      const auto turn = part.wait(Use::alone);
      ++ended;
    });
    while (!waits) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    reads = std::thread([&] {
      const auto turn = whole.wait(Use::reading);
      ++ended;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto turn = whole.wait(Use::alone);
  }
  alone.join();
  reads.join();
  EXPECT_EQ(ended, 2);
}

TEST(UpgradeMutex, IsTakenBesideOthersAsItsUseAllows) {
  using Use = UpgradeMutex::Use;
  const std::vector<Use> uses = {Use::reading, Use::updating, Use::alone};
  // What another thread may have while this one has: reading, updating, alone.
  const std::vector<std::vector<bool>> allowed = {{true, true, false}, {true, false, false}, {false, false, false}};
  for (std::size_t mine = 0; mine < uses.size(); ++mine) {
    for (std::size_t its = 0; its < uses.size(); ++its) {
      UpgradeMutex mutex;
      mutex.lock(uses[mine]);
      bool is_free = false;
      std::thread([&] {
        is_free = mutex.try_lock(uses[its]);
        if (is_free) mutex.unlock(uses[its]);
      }).join();
      EXPECT_EQ(is_free, allowed[mine][its]) << mine << ' ' << its;
      EXPECT_TRUE(mutex.try_lock(uses[its]));  // by the thread that has it
      mutex.unlock(uses[its]);
      mutex.unlock(uses[mine]);
      EXPECT_TRUE(mutex.try_lock(Use::alone));
      mutex.unlock(Use::alone);
    }
  }
}

}  // namespace
}  // namespace it3::test
