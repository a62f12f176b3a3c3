#include <it3/backend/engine_core.h>

#include "lazy_embedder.h"
#include "network_fixture.h"

namespace it3::test {
namespace {

EngineSetup looked_at(const Problem& problem) {
  const Inputs inputs(problem.x);
  const EngineSetup setup = setup_with(std::make_shared<Lazy>());
  return look_at_first(
      {*problem.network, inputs, setup, setup.method({})}, problem.network->origin_of_prediction(),
      problem.network->origin_of_features());
}

TEST(EngineCore, ACopyKnowsTheSame) {
  Problem problem;
  const Inputs inputs(problem.x);
  const EngineSetup setup = looked_at(problem);
  EngineCore core(/*is_trained=*/false);
  core.learned_probabilities = true;
  EXPECT_TRUE(core.takes_warning({}));
  core.adapt({*problem.network, inputs, setup, setup.method({})}, {.lr = 0.1, .copy_model = false}, false);
  EXPECT_GT(setup.online->drift(*problem.network).distance, 0);
  setup.online->reset(*problem.network);
  EXPECT_EQ(setup.online->drift(*problem.network).distance, 0);
  EngineCore copy(core);
  EXPECT_TRUE(copy.learned_probabilities);
  EXPECT_FALSE(copy.takes_warning({}));
  copy.is_trained = true;
  EXPECT_FALSE(core.is_trained);
}

TEST(EngineCore, TrainingTeachesIt) {
  Problem problem;
  const Inputs inputs(problem.x);
  const EngineSetup setup = looked_at(problem);
  const EngineCall call{*problem.network, inputs, setup, setup.method({})};
  EngineCore core(/*is_trained=*/false);
  core.losses(call, at::zeros_like(problem.network->predict(inputs).prediction), {});
  EXPECT_TRUE(core.is_trained);
  EXPECT_FALSE(core.learned_probabilities);
  core.losses(call, at::zeros({problem.x.size(0)}, at::kLong), {});
  EXPECT_TRUE(core.learned_probabilities);
}

TEST(EngineCore, WarnsOnceWhereNothingWasTrained) {
  EngineCore core(/*is_trained=*/false);
  EXPECT_FALSE(core.takes_warning({.num_steps = 0}));
  EXPECT_TRUE(core.takes_warning({}));
  EXPECT_FALSE(core.takes_warning({}));
  EngineCore trained(/*is_trained=*/true);
  EXPECT_FALSE(trained.takes_warning({}));
}

}  // namespace
}  // namespace it3::test
