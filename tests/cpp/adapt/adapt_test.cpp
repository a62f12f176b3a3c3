#include <cmath>
#include <limits>
#include <stdexcept>

#include "network_fixture.h"

namespace it3::test {
namespace {

/// IT3 as its formula, on the net's own weights, with torch's own optimizer.
at::Tensor naive_adapt(Problem& problem, std::int64_t steps, std::vector<double>& losses) {
  auto& net = *problem.net;
  torch::optim::Adam optimizer(net.parameters(), torch::optim::AdamOptions(1e-2));
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto y0 = net.forward(problem.x);
    const auto hidden = torch::tanh(net.norm(net.first(problem.x)));
    const auto y1 = net.last(torch::tanh(net.middle(hidden) + y0.matmul(problem.embedding) + hidden));
    const auto loss = (y1 - y0).square().mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  const torch::NoGradGuard no_grad;
  return net.forward(problem.x);
}

TEST(Adapt, AgreesWithTheFormula) {
  for (const std::int64_t steps : {0, 1, 3, 10}) {
    Problem problem;
    Options options{.lr = 1e-2};
    options.num_steps = steps;
    const auto before = problem.snapshot();
    const auto result = adapt(*problem.network, problem.method(), options, problem.x, nullptr, /*with_details=*/true);
    EXPECT_TRUE(equal(problem.snapshot(), before));

    std::vector<double> losses;
    const auto expected = naive_adapt(problem, steps, losses);
    EXPECT_TRUE(close(result.prediction, expected)) << steps;
    EXPECT_EQ(result.steps(), steps);
    EXPECT_TRUE(close(result.losses, torch::tensor(losses, f64)));
    EXPECT_NEAR(result.loss().item<double>(), losses.empty() ? 0 : losses.back(), 1e-12);
    EXPECT_FALSE(result.prediction.requires_grad());
    for (const auto& [name, value] : result.weights) {
      EXPECT_TRUE(close(value, problem.net->named_parameters()[name])) << name;
    }
    const auto hidden = torch::tanh(problem.net->norm(problem.net->first(problem.x)));
    const auto y1 =
        problem.net->last(torch::tanh(problem.net->middle(hidden) + expected.matmul(problem.embedding) + hidden));
    EXPECT_TRUE(close(result.second, y1));
    EXPECT_TRUE(close(result.uncertainty(), (y1 - expected).norm(2, 1)));
  }
}

TEST(Adapt, WorksInEveryGradMode) {
  Problem problem;
  const auto expected = adapt(*problem.network, problem.method(), {}, problem.x).prediction;
  {
    const torch::NoGradGuard no_grad;
    EXPECT_TRUE(torch::equal(adapt(*problem.network, problem.method(), {}, problem.x).prediction, expected));
  }
  {
    const c10::InferenceMode inference;
    EXPECT_TRUE(torch::equal(adapt(*problem.network, problem.method(), {}, problem.x).prediction, expected));
  }
}

TEST(Adapt, RestoresEverythingWhateverThrows) {
  for (int at = 1; at <= 3; ++at) {
    for (const char* const place : {"embed", "combine", "distance"}) {
      Problem problem;
      int calls = 0;
      const auto bomb = [&](std::string_view here) {
        torch::rand(1);
        if (here == place && ++calls == at) throw std::runtime_error("bomb");
      };
      const Method plain = problem.method();
      const Method method{
          [&](const at::Tensor& y, const at::Tensor& f) { return bomb("embed"), plain.embed(y, f); },
          [&](const at::Tensor& f, const at::Tensor& e) { return bomb("combine"), plain.combine(f, e); },
          Distance([&](const at::Tensor& a, const at::Tensor& b) {
            return bomb("distance"), plain.distance.to_prediction(a, b);
          })};
      problem.net->norm->train();
      problem.net->middle->bias.set_requires_grad(false);
      Options options{.lr = 1e-2};
      options.parameters = {"norm"};
      const auto before = problem.snapshot();
      const auto random = at::detail::getDefaultCPUGenerator().get_state();
      EXPECT_THROW(adapt(*problem.network, method, options, problem.x), std::runtime_error);
      EXPECT_TRUE(equal(problem.snapshot(), before));
      EXPECT_TRUE(torch::equal(at::detail::getDefaultCPUGenerator().get_state(), random));
      EXPECT_TRUE(problem.net->first->weight.requires_grad());
      EXPECT_FALSE(problem.net->middle->bias.requires_grad());
      EXPECT_NO_THROW(adapt(*problem.network, method, options, problem.x));
    }
  }
}

TEST(Adapt, ReportsValuesThatAreNotFinite) {
  Problem problem;
  const auto before = problem.snapshot();
  const auto nan = torch::full_like(problem.x, std::numeric_limits<double>::quiet_NaN());
  EXPECT_THROW(adapt(*problem.network, problem.method(), {}, nan), c10::ValueError);
  EXPECT_TRUE(equal(problem.snapshot(), before));
}

TEST(Adapt, LeavesGradientsAlone) {
  Problem problem;
  adapt(*problem.network, problem.method(), {}, problem.x);
  for (const auto& parameter : problem.net->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

TEST(Uncertainty, IsTheDistanceOfTheTwoPredictions) {
  Problem problem;
  const auto y0 = problem.net->forward(problem.x);
  const auto hidden = torch::tanh(problem.net->norm(problem.net->first(problem.x)));
  const auto y1 = problem.net->last(torch::tanh(problem.net->middle(hidden) + y0.matmul(problem.embedding) + hidden));
  const auto distances = uncertainty(*problem.network, problem.method(), problem.x);
  EXPECT_TRUE(close(distances, (y1 - y0).square().sum(1).sqrt()));
}

TEST(Uncertainty, IsOfProbabilitiesWhereTheseAreFedBack) {
  Problem problem;
  Method method = problem.method();
  method.feeds_probabilities = true;
  const auto unadapted = predict_twice(*problem.network, method, problem.x);
  const auto difference = torch::softmax(unadapted.second, 1) - torch::softmax(unadapted.first, 1);
  const auto expected = difference.square().sum(1).sqrt();
  EXPECT_TRUE(close(uncertainty(*problem.network, method, problem.x), expected));
  EXPECT_TRUE(close(unadapted.uncertainty(), expected));
  // Between two distances, as rounding may put one that is the threshold on either side.
  Options options{.threshold = std::get<0>(expected.sort()).slice(0, 0, 2).mean().item<double>()};
  const auto which = expected > *options.threshold;
  EXPECT_TRUE(torch::equal(adapt(*problem.network, method, options, problem.x).adapted_samples, which));
  options.per_sample = true;
  EXPECT_TRUE(torch::equal(adapt(*problem.network, method, options, problem.x).adapted_samples, which));
}

TEST(Uncertainty, NeedsTheSecondPrediction) {
  Problem problem;
  const auto adapted = adapt(*problem.network, problem.method(), {}, problem.x);
  EXPECT_THROW(static_cast<void>(adapted.uncertainty()), c10::ValueError);
}

TEST(SampleDistances, TakesEveryRank) {
  const auto a = torch::tensor({1.0F, 2.0F}), b = torch::tensor({4.0F, 2.0F});
  EXPECT_TRUE(torch::equal(sample_distances(a, b), torch::tensor({3.0F, 0.0F})));
  EXPECT_TRUE(torch::equal(sample_distances(a[0], b[0]), torch::tensor({3.0F})));
  const auto image = torch::ones({2, 3, 4, 4});
  EXPECT_TRUE(torch::allclose(sample_distances(image, -image), torch::full({2}, 2 * std::sqrt(48.0F))));
  EXPECT_EQ(sample_distances(image.to(torch::kHalf), -image.to(torch::kHalf)).scalar_type(), torch::kFloat);
}

TEST(SampleDistances, OfProbabilitiesKnowsWhereTheClassesAre) {
  // Of two classes at one place: softmax of (log 3, 0) is (3/4, 1/4), of (0, 0) (1/2, 1/2).
  const auto second = torch::tensor({std::log(3.0), 0.0}, f64), first = torch::zeros({2}, f64);
  const auto expected = torch::full({1}, std::sqrt(2.0) / 4, f64);
  EXPECT_TRUE(close(sample_distances(second.view({1, 2}), first.view({1, 2}), {}, true), expected));
  const Layout image{.channel_dim = 1};
  EXPECT_TRUE(close(sample_distances(second.view({1, 2, 1, 1}), first.view({1, 2, 1, 1}), image, true), expected));
  const Layout time_first{.channel_dim = 2, .batch_dim = 1};
  const auto twice =
      sample_distances(second.expand({2, 3, 2}), first.expand({2, 3, 2}), time_first, true);  // 2 times, 3 samples
  EXPECT_TRUE(close(twice, torch::full({3}, 0.5, f64)));
  EXPECT_THROW(sample_distances(second.view({2, 1}), first.view({2, 1}), {}, true), c10::ValueError);
}

TEST(SampleDistances, OfProbabilitiesAreNotFiniteWherePredictionsAreNot) {
  const auto masked = torch::tensor({0.0, -std::numeric_limits<double>::infinity(), 0.0, 1.0}, f64).view({2, 2});
  const auto distances = sample_distances(masked, masked, {}, true);
  EXPECT_TRUE(torch::equal(distances.isfinite(), torch::tensor({false, true})));
}

}  // namespace
}  // namespace it3::test
