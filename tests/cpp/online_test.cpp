#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(Online, GoesOnWithTheOptimizersState) {
  Problem kept, once;
  Options options;
  options.copy_model = false;
  Online online;
  for (int call = 0; call < 3; ++call) adapt(*kept.network, kept.method(), options, kept.x, &online);
  options.num_steps = 9;
  const auto expected = adapt(*once.network, once.method(), options, once.x);
  EXPECT_TRUE(close(kept.net->forward(kept.x), expected.prediction));
}

TEST(Online, AFailedCallChangesNothing) {
  Problem failing, smooth;
  const Options options;
  Online failing_online, online;
  adapt(*failing.network, failing.method(), options, failing.x, &failing_online);
  EXPECT_THROW(
      adapt(*failing.network, failing.method(), options, failing.x.mul(std::nan("")), &failing_online),
      c10::ValueError);
  const auto result = adapt(*failing.network, failing.method(), options, failing.x, &failing_online);
  adapt(*smooth.network, smooth.method(), options, smooth.x, &online);
  const auto expected = adapt(*smooth.network, smooth.method(), options, smooth.x, &online);
  EXPECT_TRUE(torch::equal(result.prediction, expected.prediction));
}

TEST(Online, WeightsChangedByOthersAreANewStart) {
  Problem problem;
  Online online;
  adapt(*problem.network, problem.method(), {}, problem.x, &online);
  {
    const torch::NoGradGuard no_grad;
    problem.net->first->weight.mul_(2);
  }
  const auto changed = problem.snapshot();
  online.reset(*problem.network);
  EXPECT_TRUE(equal(problem.snapshot(), changed));
  EXPECT_FALSE(online.has_moved());
}

}  // namespace
}  // namespace it3::test
