#include "cuda_graphs/graph_cache.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cuda_graphs/device_on_cpu.h"
#include "warnings.h"

namespace it3::test {
namespace {

using detail::GraphCache;
using detail::GraphKey;
using detail::LoopOutcome;

/// Work that writes its results to the same memory each time, as a graph does: 2 x + 1 and others by their formulas.
struct Work {
  LoopOutcome operator()(const Inputs& inputs) {
    const at::Tensor x = inputs.args.at(0).toTensor();
    seen = x;
    ++calls;
    for (at::Tensor* const t : {&prediction, &first, &second, &weight}) {
      if (!t->defined()) *t = torch::empty_like(x);
    }
    if (!losses.defined()) losses = torch::empty({2});
    losses.copy_(torch::stack({x.sum(), x.square().sum()}));
    prediction.copy_(2 * x + 1);
    first.copy_(3 * x);
    second.copy_(4 * x);
    weight.copy_(5 * x);
    LoopOutcome outcome;
    outcome.result.prediction = prediction;
    outcome.result.first = is_first_the_answer ? prediction : first;
    if (has_second) outcome.result.second = second;
    outcome.result.losses = losses;
    outcome.result.weights.emplace_back("weight", weight);
    outcome.report = x.sum().reshape(1);
    return outcome;
  }

  bool is_first_the_answer = false;
  bool has_second = true;
  int calls = 0;
  at::Tensor seen, prediction, first, second, weight, losses;
};

GraphKey key_of(std::int64_t number) {
  GraphKey key;
  key.tensors = {number};
  return key;
}

struct Cache : testing::Test {
  Cache() { device = {}; }
  ~Cache() override { device = {}; }

  LoopOutcome run(std::int64_t key, const at::Tensor& input) { return cache.run(key_of(key), input, function); }

  GraphCache cache;
  Work work;
  const GraphCache::Work function = [this](const Inputs& inputs) { return work(inputs); };
  at::Tensor x = torch::arange(1.0, 4.0);
};

TEST_F(Cache, RunsTheFirstCallRecordsTheSecondAndReplaysItFromThenOn) {
  for (int call = 1; call <= 4; ++call) {
    const at::Tensor now = x * call;
    const LoopOutcome outcome = run(0, now);
    EXPECT_TRUE(torch::equal(outcome.result.prediction, 2 * now + 1)) << call;
    EXPECT_TRUE(torch::equal(outcome.result.first, 3 * now)) << call;
    EXPECT_TRUE(torch::equal(outcome.result.second, 4 * now)) << call;
    EXPECT_TRUE(torch::equal(outcome.result.losses, torch::stack({now.sum(), now.square().sum()}))) << call;
    EXPECT_TRUE(torch::equal(outcome.result.weights.at(0).second, 5 * now)) << call;
    EXPECT_TRUE(torch::equal(outcome.report, now.sum().reshape(1))) << call;
    EXPECT_EQ(device.recordings, call == 1 ? 0 : 1) << call;
    EXPECT_EQ(device.replays, call - 1) << call;
  }
}

TEST_F(Cache, GivesResultsThatLaterReplaysDoNotChange) {
  run(0, x);
  const LoopOutcome before = run(0, x);
  run(0, 10 * x);
  EXPECT_TRUE(torch::equal(before.result.prediction, 2 * x + 1));
  EXPECT_TRUE(torch::equal(before.result.first, 3 * x));
  EXPECT_TRUE(torch::equal(before.result.second, 4 * x));
  EXPECT_TRUE(torch::equal(before.result.losses, torch::stack({x.sum(), x.square().sum()})));
  EXPECT_TRUE(torch::equal(before.result.weights.at(0).second, 5 * x));
}

TEST_F(Cache, KeepsPredictionsOneThatAreOne) {
  work.is_first_the_answer = true;
  for (int call = 0; call < 3; ++call) {
    const LoopOutcome outcome = run(0, x);
    EXPECT_TRUE(outcome.result.first.is_same(outcome.result.prediction)) << call;
  }
}

TEST_F(Cache, LeavesOutWhatTheWorkDoes) {
  work.has_second = false;
  for (int call = 0; call < 3; ++call) EXPECT_FALSE(run(0, x).result.second.defined()) << call;
}

TEST_F(Cache, ReplaysOnMemoryOfItsOwn) {
  const at::Tensor given = x.clone().requires_grad_();
  run(0, given);
  run(0, given);
  EXPECT_NE(work.seen.data_ptr(), given.data_ptr());
  EXPECT_FALSE(work.seen.requires_grad());
  const void* const own = work.seen.data_ptr();
  run(0, 7 * x);
  EXPECT_EQ(work.seen.data_ptr(), own);
}

TEST_F(Cache, BringsEveryInputToItsPlace) {
  const GraphCache::Work difference = [](const Inputs& inputs) {
    const std::vector<at::Tensor> list = inputs.args.at(0).toTensorVector();
    LoopOutcome outcome;
    outcome.result.prediction = list.at(0) - 10 * list.at(1) + 100 * inputs.kwargs.at("scale").toTensor();
    outcome.report = torch::zeros({1});
    return outcome;
  };
  for (const double number : {1.0, 2.0, 3.0}) {
    const at::Tensor a = torch::full({2}, number), b = torch::full({2}, number + 1), c = torch::full({2}, number + 2);
    const Inputs inputs({c10::IValue(std::vector<at::Tensor>{a, b})}, {{"scale", c}});
    EXPECT_TRUE(torch::equal(cache.run(key_of(0), inputs, difference).result.prediction, a - 10 * b + 100 * c));
  }
}

TEST_F(Cache, RunsWithoutAfterARecordingThatFailedAndWarnsOnce) {
  device.fails_to_record = true;
  const Warnings warnings;
  for (int call = 1; call <= 4; ++call) {
    EXPECT_TRUE(torch::equal(run(0, x * call).result.prediction, 2 * x * call + 1));
    EXPECT_EQ(work.calls, call);
    EXPECT_EQ(warnings.texts().size(), call == 1 ? 0 : 1) << call;
  }
  EXPECT_EQ(
      warnings.texts().at(0),
      "adaptation cannot be recorded as a CUDA graph, so it runs without one, which is slower: the work is not of that "
      "kind. cuda_graphs='off' avoids this warning");
  EXPECT_EQ(device.replays, 0);
}

TEST_F(Cache, KeepsCallsOfOtherKeysApart) {
  run(0, x);
  run(1, x);
  EXPECT_EQ(device.recordings, 0);
  run(1, x);
  EXPECT_EQ(device.recordings, 1);
  run(0, x);
  EXPECT_EQ(device.recordings, 2);
}

TEST_F(Cache, ForgetsTheOneOfFiveThatWasNotUsedForLongest) {
  for (const int key : {0, 1, 2, 3}) run(key, x);
  run(0, x);  // recorded, and the last used
  run(4, x);  // in the place of 1
  device.recordings = device.replays = 0;
  run(0, x);
  EXPECT_EQ(device.replays, 1);
  for (const int key : {2, 3, 4}) run(key, x);
  EXPECT_EQ(device.recordings, 3);
  run(1, x);
  EXPECT_EQ(device.recordings, 3);
}

TEST_F(Cache, WaitsForReplaysBeforeItForgetsOne) {
  run(0, x);
  run(0, x);
  for (const int key : {1, 2, 3}) run(key, x);
  EXPECT_EQ(device.synchronized_events, 0);
  run(4, x);
  EXPECT_EQ(device.synchronized_events, 1);
}

TEST_F(Cache, LetsEachReplayWaitForTheOneBefore) {
  for (int call = 0; call < 4; ++call) run(0, x);
  EXPECT_EQ(device.recorded_events, 3);
  EXPECT_EQ(device.waits_for_events, 2);
}

}  // namespace
}  // namespace it3::test
