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

TEST(Online, TheStartBelongsToTheModel) {
  Problem problem, alone;
  const auto before = problem.snapshot();
  const auto call = [&](Online& online, std::vector<std::string> which = {"all"}) {
    Options options;
    options.parameters = std::move(which);
    return adapt(*problem.network, problem.method(), options, problem.x, &online).prediction;
  };
  Online a, b;
  for (const bool a_is_first : {true, false}) {
    call(a);
    call(b, {"last"});
    call(a);
    EXPECT_NEAR(a.drift(*problem.network).distance, b.drift(*problem.network).distance, 0);
    (a_is_first ? a : b).reset(*problem.network);
    EXPECT_TRUE(equal(problem.snapshot(), before));
    EXPECT_EQ(b.drift(*problem.network).distance, 0);
    (a_is_first ? b : a).reset(*problem.network);
    EXPECT_TRUE(equal(problem.snapshot(), before));
  }
  // Nothing of the time before another one's reset is left.
  call(a);
  b.reset(*problem.network);
  Online fresh;
  const auto expected = adapt(*alone.network, alone.method(), {}, alone.x, &fresh).prediction;
  EXPECT_TRUE(torch::equal(call(a), expected));
  a.reset(*problem.network);
  // The user's own training is a new start for all.
  call(a);
  call(b, {"last"});
  {
    const torch::NoGradGuard no_grad;
    problem.net->last->weight.mul_(2);
  }
  const auto trained = problem.snapshot();
  a.reset(*problem.network);
  b.reset(*problem.network);
  EXPECT_TRUE(equal(problem.snapshot(), trained));
}

TEST(Online, AStartOutlivesWhoBeganIt) {
  Problem problem;
  const auto before = problem.snapshot();
  {
    Online first;
    adapt(*problem.network, problem.method(), {}, problem.x, &first);
  }
  Online second;
  adapt(*problem.network, problem.method(), {}, problem.x, &second);
  second.reset(*problem.network);
  EXPECT_TRUE(equal(problem.snapshot(), before));
}

TEST(Online, AStateReadFromAFileGoesOn) {
  Problem problem, other;
  const auto before = problem.snapshot();
  Online online;
  adapt(*problem.network, problem.method(), {}, problem.x, &online);
  Online::State state = online.state();
  for (auto& start : state.start) start = {start.name, start.value};  // as a file has it
  {
    const torch::NoGradGuard no_grad;
    const auto from = problem.net->parameters(), to = other.net->parameters();
    for (std::size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
  }
  Online read(state);
  EXPECT_EQ(read.drift(*other.network).distance, online.drift(*problem.network).distance);
  const auto expected = adapt(*problem.network, problem.method(), {}, problem.x, &online).prediction;
  EXPECT_TRUE(torch::equal(adapt(*other.network, other.method(), {}, other.x, &read).prediction, expected));
  read.reset(*other.network);
  EXPECT_TRUE(equal(other.snapshot(), before));
  EXPECT_FALSE(equal(problem.snapshot(), before));  // the models are two
  Online(state).reset(*other.network);
  EXPECT_TRUE(equal(other.snapshot(), before));
}

}  // namespace
}  // namespace it3::test
