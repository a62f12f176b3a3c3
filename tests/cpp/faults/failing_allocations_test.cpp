// Memory that runs out, of tensors or of C++ objects, leaves network, engine and random state as they were.
#include "faults/failing_allocations.h"

#include <memory>
#include <new>

#include <gtest/gtest.h>

#include "faults/every_point.h"

namespace it3::test {
namespace {

const Options plain{.num_steps = 1, .lr = 1e-2};

template <typename Fault>
Tally run(Kind kind, const Options& options, const Call& call, bool lasts = false, std::int64_t stride = 1) {
  return every_point(
      call, [&] { return std::make_unique<Subject>(kind, options); },
      [&](std::int64_t n) { return std::make_unique<Fault>((n - 1) * stride + 1, lasts); });
}

class FailingAllocation : public testing::TestWithParam<Kind> {};

/// Once, or from there on until the call is over, as when memory is short.
TEST_P(FailingAllocation, OfTensorMemory) {
  Options options[] = {plain, plain, plain, plain, plain};
  options[1].anchor = AnchorKind::frozen;
  options[2].anchor = AnchorKind::ema;
  options[2].num_steps = 2;
  options[3].threshold = 0.0;
  options[4].per_sample = true;
  Options online = plain;
  online.copy_model = false;
  online.restore_probability = 0.2;
  for (const bool lasts : {false, true}) {
    const std::int64_t stride = lasts ? 3 : 1;
    for (const Options& each : options) {
      expect_sound(run<FailingTensorMemory>(GetParam(), each, adapt_call(/*with_details=*/true), lasts, stride), 20);
    }
    expect_sound(run<FailingTensorMemory>(GetParam(), online, online_call(), lasts, stride), 30);
    const std::pair<Call, std::int64_t> calls[] = {
        {first_adapt_call(), 30}, {first_losses_call(), 20}, {uncertainty_call(), 7}, {calibrate_call(), 15},
        {losses_call(), 6},       {training_call(), 20},     {save_state_call(), 4},  {load_state_call(), 30}};
    for (const auto& [call, least_points] : calls) {
      expect_sound(run<FailingTensorMemory>(GetParam(), plain, call, lasts, stride), least_points);
    }
    if (GetParam() != Kind::script) continue;
    expect_sound(run<FailingTensorMemory>(GetParam(), plain, save_call(), lasts, stride), 15);
    expect_sound(run<FailingTensorMemory>(GetParam(), plain, save_adapted_call(), lasts, stride), 30);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FailingAllocation, testing::ValuesIn(all_kinds), [](const auto& kind) {
  return to_string(kind.param);
});

/// Only where torch itself can go on: much of it, such as the destructors of tensors in a graph, of guards of
/// functorch's state and of the readers and writers of its files, ends the process if it gets no memory.
TEST(FailingNew, LeavesAllAsItWas) {
  Options online = plain;
  online.copy_model = false;
  // torch's addThreadLocalCallback() keeps one that it fails to give a handle of.
  Call adapt = adapt_call(), adapt_online = online_call();
  adapt.may_change.callbacks = adapt_online.may_change.callbacks = true;
  for (const Kind kind : {Kind::sequential, Kind::whole}) {
    expect_sound(run<FailingNew>(kind, plain, uncertainty_call(), false, /*stride=*/2), 150);
    expect_sound(run<FailingNew>(kind, plain, losses_call(), false, /*stride=*/2), 150);
    expect_sound(run<FailingNew>(kind, online, reset_call()), 100);
    expect_sound_but_for_terminate(run<FailingNew>(kind, plain, adapt, false, /*stride=*/4), 250);
    expect_sound_but_for_terminate(run<FailingNew>(kind, online, adapt_online, false, /*stride=*/5), 250);
  }
  expect_sound(run<FailingNew>(Kind::script, plain, uncertainty_call()), 200);
  expect_sound_but_for_terminate(run<FailingNew>(Kind::script, plain, adapt, false, /*stride=*/2), 350);
}

TEST(FailingAllocations, FailOnceOrFromThereOn) {
  {
    const FailingTensorMemory second(2);
    EXPECT_NO_THROW(torch::empty({2}));
    EXPECT_THROW(torch::empty({2}), c10::Error);
    EXPECT_NO_THROW(torch::empty({2}));
    EXPECT_EQ(second.count(), 3);
  }
  int failures = 0;
  {
    const FailingNew all(1, /*lasts=*/true);
    for (int i = 0; i < 3; ++i) {
      try {
        const auto memory = std::make_unique<std::vector<int>>(100);
      } catch (const std::bad_alloc&) {
        ++failures;
      }
    }
  }
  EXPECT_EQ(failures, 3);
}

}  // namespace
}  // namespace it3::test
