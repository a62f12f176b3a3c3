#include "network_fixture.h"

namespace it3::test {
namespace {

at::Tensor second_of(NetImpl& net, const at::Tensor& x, const at::Tensor& embedding) {
  const auto hidden = torch::tanh(net.norm(net.first(x)));
  return net.last(torch::tanh(net.middle(hidden) + embedding + hidden));
}

/// IT3 with a separate network as its anchor, by the formula; decay 1 is a frozen one.
at::Tensor naive_adapt(Problem& problem, std::int64_t steps, double decay, std::vector<double>& losses) {
  Net anchor;
  const auto weights = problem.net->parameters(), averages = anchor->parameters();
  {
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < weights.size(); ++i) averages[i].copy_(weights[i]).requires_grad_(false);
  }
  torch::optim::Adam optimizer(weights, torch::optim::AdamOptions(1e-2));
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto y0 = problem.net->forward(problem.x);
    const auto loss = (second_of(*anchor, problem.x, y0.matmul(problem.embedding)) - y0).square().mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < weights.size(); ++i) averages[i].mul_(decay).add_(weights[i], 1 - decay);
  }
  const torch::NoGradGuard no_grad;
  return problem.net->forward(problem.x);
}

class Anchors : public testing::TestWithParam<AnchorKind> {};

TEST_P(Anchors, AgreeWithTheFormula) {
  Problem problem;
  Options options{.lr = 1e-2};
  options.num_steps = 4;
  options.anchor = GetParam();
  const double decay = GetParam() == AnchorKind::ema ? 0.7 : 1;
  if (GetParam() == AnchorKind::ema) options.ema_decay = decay;
  const auto before = problem.snapshot();
  const auto result = adapt(*problem.network, problem.method(), options, problem.x);
  EXPECT_TRUE(equal(problem.snapshot(), before));
  for (const auto& p : problem.net->parameters()) EXPECT_TRUE(p.requires_grad());
  std::vector<double> losses;
  const auto expected = naive_adapt(problem, options.num_steps, decay, losses);
  EXPECT_TRUE(close(result.prediction, expected));
  EXPECT_TRUE(close(result.losses, torch::tensor(losses, f64)));
}

TEST_P(Anchors, GoOnFromCallToCall) {
  Problem kept, once;
  Options options{.lr = 1e-2};
  options.anchor = GetParam();
  options.copy_model = false;
  Online online;
  for (int call = 0; call < 3; ++call) adapt(*kept.network, kept.method(), options, kept.x, &online);
  options.num_steps = 9;
  const auto expected = adapt(*once.network, once.method(), options, once.x);
  EXPECT_TRUE(close(kept.net->forward(kept.x), expected.prediction));
  EXPECT_GT(online.drift(*kept.network).relative, 0);
  online.reset(*kept.network);
  EXPECT_EQ(online.drift(*kept.network).distance, 0);
}

TEST_P(Anchors, RestoreEverythingWhateverThrows) {
  Problem problem;
  Options options{.lr = 1e-2};
  options.anchor = GetParam();
  Method method = problem.method();
  int calls = 0;
  method.distance = Distance([&](const at::Tensor& a, const at::Tensor& b) {
    if (++calls == 2) throw std::runtime_error("bomb");
    return (a - b).square().mean();
  });
  const auto before = problem.snapshot();
  EXPECT_THROW(adapt(*problem.network, method, options, problem.x), std::runtime_error);
  EXPECT_TRUE(equal(problem.snapshot(), before));
  for (const auto& p : problem.net->parameters()) EXPECT_TRUE(p.requires_grad());
}

/// Counts the runs of what comes before its layer "a".
torch::nn::Sequential counting(int& runs) {
  const auto count = [&runs](const at::Tensor& x) { return ++runs, x.clone(); };
  return torch::nn::Sequential(
      {{"count", torch::nn::AnyModule(torch::nn::Functional(count))},
       {"a", torch::nn::AnyModule(torch::nn::Linear(5, 4))},
       {"b", torch::nn::AnyModule(torch::nn::Linear(4, 3))}});
}

TEST(FrozenAnchor, RunsItsHeadOnceACall) {
  int runs = 0;
  auto model = counting(runs);
  Options options{.lr = 1e-2};
  options.num_steps = 4;
  Engine engine(std::make_shared<ModuleNetwork>(model, "a"), options);
  const auto x = torch::randn({6, 5});
  engine.adapt(x);  // what the first call finds out takes runs of its own
  runs = 0;
  engine.adapt(x);
  EXPECT_EQ(runs, 4 + 1);  // each step and the answer
  runs = 0;
  engine.options.anchor = AnchorKind::frozen;
  engine.adapt(x);
  EXPECT_EQ(runs, 4 + 1 + 1);
}

TEST(FrozenHead, RunsOnceACall) {
  int runs = 0;
  auto model = counting(runs);
  Options options{.lr = 1e-2};
  options.parameters = {"b"};
  Engine engine(std::make_shared<ModuleNetwork>(model, "a"), options);
  const auto x = torch::randn({6, 5});
  const auto in_train_mode = engine.adapt(x).prediction;
  runs = 0;
  engine.adapt(x);
  EXPECT_EQ(runs, 1);  // adapting is in eval mode, whatever the model's
  runs = 0;
  model->eval();
  EXPECT_TRUE(torch::allclose(engine.adapt(x).prediction, in_train_mode));
  EXPECT_EQ(runs, 1);
}

INSTANTIATE_TEST_SUITE_P(All, Anchors, testing::Values(AnchorKind::frozen, AnchorKind::ema));

TEST(Neutral, IsInjectedForTheFirstPrediction) {
  Problem problem;
  Method method = problem.method();
  method.neutral = torch::tensor(-2.0);
  Options options{.lr = 1e-2};
  options.num_steps = 0;
  const auto result = adapt(*problem.network, method, options, problem.x, nullptr, /*with_details=*/true);
  const auto neutral = torch::full({6, 3}, -2.0, f64);
  const auto y0 = second_of(*problem.net, problem.x, neutral.matmul(problem.embedding));
  EXPECT_TRUE(close(result.prediction, y0));
  EXPECT_TRUE(close(result.second, second_of(*problem.net, problem.x, y0.matmul(problem.embedding))));
  const auto target = torch::rand({6, 3}, f64);
  const auto losses = training_losses(*problem.network, method, problem.x, target);
  EXPECT_TRUE(close(losses.prediction, y0));
  const auto drawn = training_losses(
      *problem.network, method, problem.x, target,
      {.first_pass = FirstSignal::drawn, .second_pass = SecondPass::none, .target_probability = 1.0});
  EXPECT_TRUE(close(drawn.prediction, second_of(*problem.net, problem.x, target.matmul(problem.embedding))));
  EXPECT_EQ(drawn.loss_ttt.item<double>(), 0);
  EXPECT_THROW(training_losses(*problem.network, method, problem.x, target * 10 - 5), c10::ValueError);
}

}  // namespace
}  // namespace it3::test
