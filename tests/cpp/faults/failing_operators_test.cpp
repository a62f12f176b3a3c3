// An error in any operator leaves network, engine and random state as they were, in every way of running.
#include "faults/failing_operators.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "faults/every_point.h"

namespace it3::test {
namespace {

class FailingOperator : public testing::TestWithParam<Kind> {
 protected:
  /// @param stride  of every so many operators one fails, another one for each `first`
  static Tally run(const Options& options, const Call& call, std::int64_t stride = 1, std::int64_t first = 1) {
    return run_lasting(options, call, false, stride, first);
  }

  /// From the n-th operator on, all fail until the call is over.
  static Tally run_lasting(
      const Options& options, const Call& call, bool lasts = true, std::int64_t stride = 1, std::int64_t first = 1) {
    return every_point(
        call, [&] { return std::make_unique<Subject>(GetParam(), options); },
        [&](std::int64_t n) { return std::make_unique<FailingOperators>((n - 1) * stride + first, lasts); });
  }
};

const Options plain{.num_steps = 1, .lr = 1e-2};

/// Every third operator; over the options, all kinds of operators have their turn.
TEST_P(FailingOperator, OfAdaptation) {
  Tally all = run(plain, adapt_call(/*with_details=*/true));
  expect_sound(all, 300);
  const Options options[] = {
      {.optimizer_name = OptimizerKind::sgd, .num_steps = 2, .lr = 1e-2, .momentum = 0.9},
      {.num_steps = 1, .lr = 1e-2, .anchor = AnchorKind::frozen},
      {.num_steps = 2, .lr = 1e-2, .anchor = AnchorKind::ema},
      {.num_steps = 1, .lr = 1e-2, .restore_probability = 0.3},
      {.num_steps = 1, .lr = 1e-2, .max_grad_norm = 1.0, .threshold = 0.0},
      {.num_steps = 1, .lr = 1e-2, .norm_statistics = NormStatistics::batch}};
  std::int64_t first = 0;
  for (const Options& others : options) {
    const Tally tally = run(others, adapt_call(), /*stride=*/3, 1 + first++ % 3);
    expect_sound(tally, 100);
    EXPECT_EQ(tally.hidden, 0);
  }
}

/// One at a time, the samples adapt where they cannot all at once: then nothing is raised.
TEST_P(FailingOperator, OfAdaptationPerSample) {
  Options options = plain;
  options.per_sample = true;
  expect_sound(run(options, adapt_call(), /*stride=*/3), 150);
}

TEST_P(FailingOperator, OfAdaptationThatIsKept) {
  Options options = plain;
  options.copy_model = false;
  expect_sound(run(options, online_call(), /*stride=*/2), 130);
  expect_sound(run(options, reset_call()), 5);
  options.anchor = AnchorKind::ema;
  options.restore_probability = 0.1;
  expect_sound(run(options, online_call(), /*stride=*/3), 120);
  options.recovery_factor = 1.0001;
  Subject collapsed(GetParam(), options);
  collapsed_call().prepare(collapsed);
  EXPECT_TRUE(collapsed.engine().adapt(collapsed.far).recovered);
  expect_sound(run(options, collapsed_call(), /*stride=*/3), 150);
}

TEST_P(FailingOperator, OfAFirstCall) {
  expect_sound(run(plain, first_adapt_call(), /*stride=*/2), 150);
  expect_sound(run(plain, first_losses_call(), /*stride=*/2), 100);
}

TEST_P(FailingOperator, OfOtherCalls) {
  expect_sound(run(plain, uncertainty_call()), 90);
  expect_sound(run(plain, calibrate_call()), 200);
  expect_sound(run(plain, losses_call()), 80);
  expect_sound(run(plain, training_call(), /*stride=*/2), 100);
  expect_sound(run(plain, save_state_call()), 50);
  expect_sound(run(plain, load_state_call()), 100);
  if (GetParam() != Kind::script) return;
  expect_sound(run(plain, save_call()), 150);
  expect_sound(run(plain, save_adapted_call(), /*stride=*/3), 150);
}

TEST_P(FailingOperator, AndAllBehindIt) {
  Options options = plain;
  options.anchor = AnchorKind::frozen;
  expect_sound(run_lasting(options, adapt_call(), true, /*stride=*/3), 100);
  options.copy_model = false;
  expect_sound(run_lasting(options, online_call(), true, /*stride=*/5), 60);
  expect_sound(run_lasting(plain, first_adapt_call(), true, /*stride=*/9), 30);
}

INSTANTIATE_TEST_SUITE_P(All, FailingOperator, testing::ValuesIn(all_kinds), [](const auto& kind) {
  return to_string(kind.param);
});

TEST(FailingOperators, AreThoseOfBackwardPassesToo) {
  for (const Kind kind : all_kinds) {
    Subject subject(kind, plain);
    const FailingOperators counting(0);
    subject.engine().adapt(subject.x);
    EXPECT_TRUE(counting.names().contains("aten::tanh_backward")) << to_string(kind);
    EXPECT_TRUE(counting.names().contains("aten::_fused_adam_")) << to_string(kind);
    EXPECT_FALSE(counting.has_failed());
  }
}

TEST(FailingOperators, FailOnceOrFromThereOn) {
  const at::Tensor x = torch::ones({2});
  {
    const FailingOperators second(2);
    EXPECT_NO_THROW(x.neg());
    EXPECT_THROW(x.neg(), c10::Error);
    EXPECT_NO_THROW(x.neg());
  }
  const FailingOperators all(1, /*lasts=*/true);
  EXPECT_THROW(x.neg(), c10::Error);
  EXPECT_THROW(x.neg(), c10::Error);
}

}  // namespace
}  // namespace it3::test
