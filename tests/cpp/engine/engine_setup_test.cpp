#include <it3/backend/engine_setup.h>

#include "error_of.h"
#include "lazy_embedder.h"
#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(EngineSetup, RefusesWhatIsNoFunction) {
  EngineSetup setup = setup_with(nullptr);
  EXPECT_NE(error_of([&] { setup.check(); }).find("embed"), std::string::npos);
  setup = setup_with(std::make_shared<Lazy>());
  setup.check();
  setup.functions.distance = DistanceFunction();
  EXPECT_NE(error_of([&] { setup.check(); }).find("distance"), std::string::npos);
  setup = setup_with(std::make_shared<Lazy>());
  setup.neutral = torch::full({}, NAN, f64);
  EXPECT_NE(error_of([&] { setup.check(); }).find("neutral"), std::string::npos);
}

TEST(EngineSetup, FeedsProbabilitiesWhereDistanceTrainingOrFeedbackSaySo) {
  EngineSetup setup = setup_with(std::make_shared<Lazy>());
  EXPECT_FALSE(setup.feeds_probabilities());
  setup.learned_probabilities = true;
  EXPECT_TRUE(setup.feeds_probabilities());
  setup.feedback = Feedback::prediction;
  EXPECT_FALSE(setup.method({}).feeds_probabilities);
  setup.functions.distance = distance_by_name("kl");
  EXPECT_FALSE(setup.feeds_probabilities());
  setup.feedback = Feedback::automatic;
  setup.learned_probabilities = false;
  EXPECT_TRUE(setup.method({}).feeds_probabilities);
}

TEST(EngineSetup, TheMethodComparesAndCombinesWhereTheLayoutsSay) {
  EngineSetup setup = setup_with(std::make_shared<Lazy>());
  setup.functions.distance = distance_by_name("kl");
  setup.layouts = {.prediction = {.channel_dim = 2, .batch_dim = 0}, .features = {.channel_dim = -1, .batch_dim = 0}};
  const Method method = setup.method({});
  const at::Tensor p = torch::randn({2, 3, 4}, f64), q = torch::randn({2, 3, 4}, f64);
  const at::Tensor expected = (p.softmax(2) * (p.log_softmax(2) - q.log_softmax(2))).sum(2).mean();
  EXPECT_TRUE(torch::allclose(method.distance.to_prediction(q, p), expected));
  const at::Tensor features = torch::randn({2, 5, 7}, f64), embedding = torch::randn({2, 7}, f64);
  EXPECT_TRUE(torch::equal(method.combine(features, embedding), features + embedding.unsqueeze(1)));
  EXPECT_EQ(method.prediction_layout, setup.layouts.prediction);
  EXPECT_FALSE(method.reads);  // an embedder that may do more than embed()
}

}  // namespace
}  // namespace it3::test
