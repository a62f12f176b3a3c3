#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(FitTarget, MakesClassesOneHot) {
  const auto prediction = torch::zeros({3, 4}, f64);
  const auto classes = torch::tensor({0, 3, 1});
  EXPECT_TRUE(torch::equal(fit_target(classes, prediction), torch::one_hot(classes, 4).to(f64)));
  EXPECT_THROW(fit_target(classes + 1, prediction), c10::ValueError);
  EXPECT_THROW(fit_target(classes - 1, prediction), c10::ValueError);
  const auto pixels = torch::randint(4, {3, 2, 2});
  EXPECT_TRUE(
      torch::equal(
          fit_target(pixels, torch::zeros({3, 4, 2, 2}, f64)), torch::one_hot(pixels, 4).movedim(-1, 1).to(f64)));
}

TEST(FitTarget, NeverBroadcasts) {
  const auto target = torch::randn({3});
  EXPECT_TRUE(torch::equal(fit_target(target, torch::zeros({3, 1})), target.view({3, 1})));
  EXPECT_TRUE(torch::equal(fit_target(target.view({3, 1}), torch::zeros({3})), target));
  EXPECT_THROW(fit_target(target, torch::zeros({3, 2})), c10::ValueError);
  EXPECT_THROW(fit_target(torch::randn({1, 2}), torch::zeros({3, 2})), c10::ValueError);
}

TEST(TrainingLosses, AreTheTwoTermsAndUpdateStatisticsOnce) {
  Problem problem;
  Problem twin;
  const auto target = torch::randn({6, 3}, f64);
  problem.net->train();
  twin.net->train();
  const Losses losses = training_losses(*problem.network, problem.method(), problem.x, target);
  auto net = twin.net;
  const auto y0 = net->forward(problem.x);
  EXPECT_TRUE(equal(problem.net->buffers(), net->buffers()));
  const auto hidden = torch::tanh(net->norm(net->first(problem.x)));
  const auto y1 = net->last(torch::tanh(net->middle(hidden) + target.matmul(problem.embedding) + hidden));
  EXPECT_TRUE(close(losses.prediction, y0));
  EXPECT_TRUE(close(losses.loss_ttt, (y1 - target).square().mean()));
  const auto gradient = torch::autograd::grad({losses.loss_ttt}, {problem.net->first->weight})[0];
  const auto expected = torch::autograd::grad({(y1 - target).square().mean()}, {net->first->weight})[0];
  EXPECT_TRUE(close(gradient, expected));
}

class SelfFed : public testing::TestWithParam<SecondPass> {};

TEST_P(SelfFed, IsGivenTheFirstPrediction) {
  Problem problem;
  problem.net->eval();
  const auto target = torch::randn({6, 3}, f64);
  const Losses losses =
      training_losses(*problem.network, problem.method(), problem.x, target, {.second_pass = GetParam(), .weight = 2});
  const auto y0 = problem.net->forward(problem.x);
  const auto fed = GetParam() == SecondPass::prediction ? y0 : y0.detach();
  const auto hidden = torch::tanh(problem.net->norm(problem.net->first(problem.x)));
  const auto y1 = problem.net->last(torch::tanh(problem.net->middle(hidden) + fed.matmul(problem.embedding) + hidden));
  const auto expected = 2 * (y1 - target).square().mean();
  EXPECT_TRUE(close(losses.prediction, y0));
  EXPECT_TRUE(close(losses.loss_ttt, expected));
  const auto& weight = problem.net->last->weight;
  EXPECT_TRUE(
      close(torch::autograd::grad({losses.loss_ttt}, {weight})[0], torch::autograd::grad({expected}, {weight})[0]));
}

INSTANTIATE_TEST_SUITE_P(
    All, SelfFed, testing::Values(SecondPass::prediction, SecondPass::detached_prediction), [](const auto& item) {
      return std::string(to_string(item.param));
    });

TEST(TrainingRecipe, RefusesWhatSaysMoreAboutADrawWhereThereIsNone) {
  EXPECT_THROW((TrainingRecipe{.target_probability = 0.5}.validate()), c10::ValueError);
  EXPECT_THROW((TrainingRecipe{.drawn_for = DrawnFor::batch}.validate()), c10::ValueError);
  EXPECT_THROW((TrainingRecipe{.weight = -1}.validate()), c10::ValueError);
  EXPECT_NO_THROW((TrainingRecipe{.second_pass = SecondPass::drawn, .target_probability = 1}.validate()));
}

}  // namespace
}  // namespace it3::test
