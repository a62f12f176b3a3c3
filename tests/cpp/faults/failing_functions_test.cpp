// What the user's functions and forward() raise, at each of their calls and of whatever type, leaves all as it was.
#include <gtest/gtest.h>

#include "faults/every_point.h"

namespace it3::test {
namespace {

enum class Raised { torch_error, std_exception, no_exception };

/// The n-th call of the user's functions raises while one lives.
class FailingFunction {
 public:
  FailingFunction(std::int64_t n, Raised raised) : n_(n), raised_(raised) { current = this; }
  ~FailingFunction() { current = nullptr; }
  FailingFunction(const FailingFunction&) = delete;
  FailingFunction& operator=(const FailingFunction&) = delete;

  bool has_failed() const { return count_ >= n_; }

  static void called() {
    if (current == nullptr || ++current->count_ != current->n_) return;
    switch (current->raised_) {
      case Raised::torch_error: TORCH_CHECK(false, "of the user's"); break;
      case Raised::std_exception: throw std::runtime_error("of the user's");
      case Raised::no_exception: throw 7;  // NOLINT(misc-throw-by-value-catch-by-reference)
    }
  }

 private:
  static inline thread_local FailingFunction* current = nullptr;
  std::int64_t n_, count_ = 0;
  Raised raised_;
};

Functions functions(bool in_forward) {
  const at::Tensor weight = torch::arange(8).reshape({2, 4}) / 8;
  Functions all;
  all.embed = [weight](const at::Tensor& prediction, const at::Tensor&) {
    FailingFunction::called();
    return prediction.matmul(weight);
  };
  all.combine = [](const at::Tensor& features, const at::Tensor& embedding) {
    FailingFunction::called();
    return features + embedding;
  };
  all.distance = Distance([](const at::Tensor& second, const at::Tensor& reference) {
    FailingFunction::called();
    return (second - reference).square().mean();
  });
  if (in_forward) all.in_forward = FailingFunction::called;
  return all;
}

class FailingFunctions : public testing::TestWithParam<std::tuple<Kind, Raised>> {
 protected:
  static Tally run(const Options& options, const Call& call) {
    const auto [kind, raised] = GetParam();
    return every_point(
        call, [&] { return std::make_unique<Subject>(kind, options, functions(kind == Kind::whole)); },
        [raised = raised](std::int64_t n) { return std::make_unique<FailingFunction>(n, raised); });
  }
};

TEST_P(FailingFunctions, LeaveAllAsItWas) {
  Options options{.num_steps = 2, .lr = 1e-2};
  for (const auto anchor : {AnchorKind::self, AnchorKind::frozen, AnchorKind::ema}) {
    options.anchor = anchor;
    const Tally tally = run(options, adapt_call(/*with_details=*/true));
    expect_sound(tally, 8);
    EXPECT_EQ(tally.hidden, 0);
  }
  expect_sound(run(options, first_adapt_call()), 8);
  expect_sound(run(options, uncertainty_call()), 2);
  expect_sound(run(options, calibrate_call()), 4);
  expect_sound(run(options, losses_call()), 3);
  expect_sound(run(options, training_call()), 3);
  options.copy_model = false;
  options.restore_probability = 0.3;
  expect_sound(run(options, online_call()), 6);
  options.recovery_factor = 1.0001;
  expect_sound(run(options, collapsed_call()), 12);
}

TEST_P(FailingFunctions, LeaveAllAsItWasPerSampleAndWithThreshold) {
  expect_sound(run({.num_steps = 1, .threshold = 0.0}, adapt_call()), 5);
  expect_sound(run({.num_steps = 1, .per_sample = true}, adapt_call()), 3);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    FailingFunctions,
    testing::Combine(
        testing::ValuesIn(all_kinds),
        testing::Values(Raised::torch_error, Raised::std_exception, Raised::no_exception)));

}  // namespace
}  // namespace it3::test
