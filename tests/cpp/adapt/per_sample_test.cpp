#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

#include <ATen/functorch/BatchedTensorImpl.h>

#include "per_sample_problem.h"
#include "warnings.h"

namespace it3::test {
namespace {

/// A loop over the samples, each adapted alone.
std::vector<Adaptation> one_by_one(Network& network, const Method& method, Options options, const at::Tensor& x) {
  options.per_sample = false;
  options.chunk_size.reset();
  std::vector<Adaptation> alone;
  for (const at::Tensor& sample : x.split(1)) {
    alone.push_back(adapt(network, method, options, sample, nullptr, /*with_details=*/true));
  }
  return alone;
}

/// Compares all that an adaptation gives, but the losses of samples that have stopped, with those of the loop.
void expect_same(const Adaptation& together, const std::vector<Adaptation>& alone) {
  ASSERT_EQ(together.prediction.size(0), static_cast<std::int64_t>(alone.size()));
  ASSERT_EQ(together.losses.size(1), static_cast<std::int64_t>(alone.size()));
  for (std::int64_t i = 0; i < together.prediction.size(0); ++i) {
    const Adaptation& one = alone.at(static_cast<std::size_t>(i));
    EXPECT_TRUE(close(together.prediction.narrow(0, i, 1), one.prediction)) << i;
    EXPECT_TRUE(close(together.first.narrow(0, i, 1), one.first)) << i;
    EXPECT_TRUE(close(together.losses.select(1, i).narrow(0, 0, one.steps()), one.losses)) << i;
    if (!together.second.defined()) continue;
    EXPECT_TRUE(close(together.second.narrow(0, i, 1), one.second)) << i;
  }
}

TEST(AdaptPerSample, GivesEachSampleTheResultOfTheFormulaOnItAlone) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  const Warnings warnings;
  const auto result =
      adapt(network, problem.method(), {.lr = 1e-2, .per_sample = true}, problem.x, nullptr, /*with_details=*/true);
  EXPECT_TRUE(warnings.texts().empty());  // it was vectorized
  ASSERT_EQ(result.losses.sizes(), (std::vector<std::int64_t>{3, 7}));
  for (std::int64_t i = 0; i < 7; ++i) {
    const at::Tensor sample = problem.x.narrow(0, i, 1);
    Weights w = problem.weights();
    std::vector<at::Tensor> parameters;
    for (const auto& [name, value] : w) parameters.push_back(value);
    torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-2));
    for (std::int64_t step = 0; step < 3; ++step) {
      const at::Tensor y0 = problem.formula(w, sample);
      const at::Tensor loss = (problem.formula(w, sample, y0) - y0).square().mean();
      EXPECT_NEAR(result.losses[step][i].item<double>(), loss.item<double>(), 1e-10);
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
    }
    const at::Tensor y0 = problem.formula(w, sample);
    EXPECT_TRUE(close(result.first.narrow(0, i, 1), y0)) << i;
    EXPECT_TRUE(close(result.prediction.narrow(0, i, 1), y0)) << i;
    EXPECT_TRUE(close(result.second.narrow(0, i, 1), problem.formula(w, sample, y0))) << i;
  }
  EXPECT_TRUE(torch::equal(result.loss(), result.losses[2]));
  EXPECT_TRUE(result.weights.empty());
}

TEST(AdaptPerSample, LeavesTheNetworkAsItWas) {
  PerSampleProblem problem;
  Weights before = problem.weights();
  ScriptNetwork network(problem.module, "layer");
  adapt(network, problem.method(), {.lr = 1, .per_sample = true}, problem.x);
  for (const auto& p : problem.module.named_parameters()) EXPECT_TRUE(torch::equal(p.value, before[p.name])) << p.name;
}

TEST(AdaptPerSample, TakesChunksOfTheSizeThatIsGivenAndTheRest) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  Options options{.lr = 1e-2, .per_sample = true};
  options.prediction = PredictionKind::mean;
  const auto alone = one_by_one(network, problem.method(), options, problem.x);
  const std::map<std::int64_t, std::set<std::int64_t>> expected = {{1, {1}}, {3, {3, 1}}, {4, {4, 3}}, {9, {7}}};
  for (const auto& [chunk_size, sizes] : expected) {
    options.chunk_size = chunk_size;
    Method method = problem.method();
    std::set<std::int64_t> seen;
    method.embed = [&](const at::Tensor& prediction, const at::Tensor&) {
      seen.insert(at::functorch::maybeGetBatchedImpl(prediction)->value().size(0));
      return prediction.matmul(problem.embedding);
    };
    expect_same(adapt(network, method, options, problem.x), alone);
    EXPECT_EQ(seen, sizes) << chunk_size;
  }
}

/// The method, as if a chunk of more than `most` samples did not fit; notes how large those were that were tried.
Method with_memory_for(const PerSampleProblem& problem, std::int64_t most, std::set<std::int64_t>& tried) {
  Method method = problem.method();
  method.embed = [&, most](const at::Tensor& prediction, const at::Tensor&) {
    const std::int64_t count = at::functorch::maybeGetBatchedImpl(prediction)->value().size(0);
    tried.insert(count);
    if (count > most) throw std::runtime_error("the device is out of memory");
    return prediction.matmul(problem.embedding);
  };
  return method;
}

TEST(AdaptPerSample, HalvesChunksThatDoNotFit) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  const Options options{.lr = 1e-2, .per_sample = true};
  const auto alone = one_by_one(network, problem.method(), options, problem.x);
  std::set<std::int64_t> tried;
  const Warnings warnings;
  expect_same(adapt(network, with_memory_for(problem, 3, tried), options, problem.x), alone);
  EXPECT_EQ(tried, (std::set<std::int64_t>{7, 3, 1}));
  EXPECT_TRUE(warnings.texts().empty());
}

TEST(AdaptPerSample, RaisesWhatDoesNotFitInTheChunksThatWereAskedFor) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  std::set<std::int64_t> tried;
  const Method method = with_memory_for(problem, 3, tried);
  EXPECT_THROW(adapt(network, method, {.per_sample = true, .chunk_size = 4}, problem.x), std::runtime_error);
  EXPECT_EQ(tried, (std::set<std::int64_t>{4}));
}

TEST(AdaptPerSample, GivesEachSampleAnAnchorAndAGradientNormOfItsOwn) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  for (const AnchorKind anchor : {AnchorKind::frozen, AnchorKind::ema}) {
    Options options{.optimizer_name = OptimizerKind::sgd, .lr = 0.5, .anchor = anchor, .per_sample = true};
    options.max_grad_norm = 0.1;
    options.chunk_size = 3;
    expect_same(
        adapt(network, problem.method(), options, problem.x),
        one_by_one(network, problem.method(), options, problem.x));
  }
}

TEST(AdaptPerSample, LeavesSamplesUnderTheThresholdAsTheyAre) {
  PerSampleProblem problem;
  const at::Tensor distances = problem.distances();
  // Between two samples, as rounding may decide about one on the threshold.
  const double threshold = std::get<0>(distances.sort()).slice(0, 3, 5).mean().item<double>();
  const at::Tensor adapts = distances > threshold;
  ASSERT_EQ(adapts.sum().item<std::int64_t>(), 3);
  Weights w = problem.weights();
  const at::Tensor plain = problem.formula(w, problem.x).detach();
  ScriptNetwork network(problem.module, "layer");
  Options options{.lr = 1e-2, .threshold = threshold, .per_sample = true};
  const auto alone = one_by_one(network, problem.method(), options, problem.x);
  for (const std::optional<std::int64_t> chunk_size : {std::optional<std::int64_t>(), {1}, {2}, {3}}) {
    options.chunk_size = chunk_size;
    EXPECT_FALSE(adapt(network, problem.method(), options, problem.x).second.defined());  // nobody asked for it
    const auto result = adapt(network, problem.method(), options, problem.x, nullptr, /*with_details=*/true);
    expect_same(result, alone);
    EXPECT_TRUE(torch::equal(result.adapted_samples, adapts));
    for (std::int64_t i = 0; i < 7; ++i) {
      EXPECT_EQ(close(result.prediction[i], plain[i]), !adapts[i].item<bool>()) << i;
      EXPECT_EQ((result.losses.select(1, i) != 0).all().item<bool>(), adapts[i].item<bool>()) << i;
    }
  }
}

TEST(AdaptPerSample, StopsEachSampleWhenItWouldStopAlone) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  Options options{.num_steps = 12, .lr = 0.1, .tolerance = 0.3, .per_sample = true};
  const auto alone = one_by_one(network, problem.method(), options, problem.x);
  std::set<std::int64_t> numbers_of_steps;
  for (const auto& one : alone) numbers_of_steps.insert(one.steps());
  ASSERT_GT(numbers_of_steps.size(), 1);
  for (const std::int64_t chunk_size : {1, 2, 7}) {
    options.chunk_size = chunk_size;
    const auto result = adapt(network, problem.method(), options, problem.x);
    expect_same(result, alone);
    EXPECT_EQ(result.steps(), *numbers_of_steps.rbegin());
    for (std::int64_t i = 0; i < 7; ++i) {  // then the last loss is repeated
      const Adaptation& one = alone.at(static_cast<std::size_t>(i));
      const at::Tensor rest = result.losses.select(1, i).slice(0, one.steps());
      EXPECT_TRUE(close(rest, one.loss().expand_as(rest))) << i;
    }
  }
}

TEST(AdaptPerSample, AdaptsModulesOneAfterAnotherAndSaysSo) {
  Problem problem;
  Options options{.lr = 1e-2, .per_sample = true, .chunk_size = 4};
  const Warnings warnings;
  const auto result = adapt(*problem.network, problem.method(), options, problem.x);
  ASSERT_EQ(warnings.texts().size(), 1);
  EXPECT_EQ(
      warnings.texts()[0],
      "per_sample: the samples adapt one after another, which is slower, because this model cannot be vectorized; "
      "TorchScript modules, and eager models that torch.export can take, can be");
  expect_same(result, one_by_one(*problem.network, problem.method(), options, problem.x));
  EXPECT_EQ(warnings.texts().size(), 1);
}

TEST(AdaptPerSample, AdaptsOneAfterAnotherWhatLooksAtValues) {
  PerSampleProblem problem;
  problem.module = two_layers(R"(
def forward(self, x):
  h = torch.tanh(torch.linear(x, self.w0, self.b0))
  if bool(h.sum() > 0):
    h = 2 * h
  return torch.linear(torch.tanh(self.layer.forward(h) + h), self.w1, self.b1)
)");
  ScriptNetwork network(problem.module, "layer");
  const Options options{.lr = 1e-2, .per_sample = true, .chunk_size = 3};
  const Warnings warnings;
  const auto result = adapt(network, problem.method(), options, problem.x);
  ASSERT_EQ(warnings.texts().size(), 1);
  EXPECT_EQ(
      warnings.texts()[0].find(
          "per_sample: the samples adapt one after another, which is slower, because the model cannot be vectorized: "),
      0)
      << warnings.texts()[0];
  adapt(network, problem.method(), options, problem.x);
  EXPECT_EQ(warnings.texts().size(), 1);
  expect_same(result, one_by_one(network, problem.method(), options, problem.x));
}

TEST(AdaptPerSample, BeginsAnewWhereALaterChunkCannotBeVectorized) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  Method method = problem.method();
  method.embed = [&](const at::Tensor& prediction, const at::Tensor&) {
    const auto* const chunk = at::functorch::maybeGetBatchedImpl(prediction);
    if (chunk != nullptr && chunk->value().size(0) == 1) throw std::runtime_error("not in a vmap");
    return prediction.matmul(problem.embedding);
  };
  const Options options{.lr = 1e-2, .per_sample = true, .chunk_size = 3};
  const Warnings warnings;
  expect_same(adapt(network, method, options, problem.x), one_by_one(network, method, options, problem.x));
  EXPECT_EQ(warnings.texts().size(), 1);
}

TEST(AdaptPerSample, SharesWhatInDimsGivesToAllSamples) {
  PerSampleProblem problem;
  problem.module = two_layers(R"(
def forward(self, x, shared):
  h = torch.tanh(torch.linear(x.t(), self.w0, self.b0)) * shared
  return torch.linear(torch.tanh(self.layer.forward(h) + h), self.w1, self.b1)
)");
  const at::Tensor x = problem.x.t().contiguous(), shared = torch::randn({8}, f64);  // samples in dimension 1
  ScriptNetwork network(problem.module, "layer");
  Method method = problem.method();
  method.in_dims = c10::ivalue::Tuple::create(1, c10::IValue());
  const auto result = adapt(network, method, {.lr = 1e-2, .per_sample = true, .chunk_size = 3}, Inputs({x, shared}));
  for (std::int64_t i = 0; i < 7; ++i) {
    const auto alone = adapt(network, method, {.lr = 1e-2}, Inputs({x.narrow(1, i, 1), shared}));
    EXPECT_TRUE(close(result.prediction.narrow(0, i, 1), alone.prediction)) << i;
    EXPECT_TRUE(close(result.losses.select(1, i), alone.losses)) << i;
  }
}

TEST(AdaptPerSample, PutsSamplesWhereThePredictionsLayoutHasThem) {
  PerSampleProblem problem;
  const at::Tensor sequences = torch::randn({2, 6, 5}, f64);  // six samples of two steps
  ScriptNetwork network(problem.module, "layer");
  Method method = problem.method();
  method.prediction_layout = {.channel_dim = -1, .batch_dim = 1};
  const auto result = adapt(network, method, {.lr = 1e-2, .per_sample = true, .chunk_size = 4}, sequences);
  ASSERT_EQ(result.prediction.sizes(), (std::vector<std::int64_t>{2, 6, 3}));
  for (std::int64_t i = 0; i < 6; ++i) {
    const auto alone = adapt(network, method, {.lr = 1e-2}, sequences.narrow(1, i, 1));
    EXPECT_TRUE(close(result.prediction.narrow(1, i, 1), alone.prediction)) << i;
  }
}

TEST(AdaptPerSample, IsWhatAnEngineDoesByItsOptions) {
  PerSampleProblem problem;
  Engine engine(std::make_shared<ScriptNetwork>(problem.module, "layer"), {.lr = 1e-2});
  engine.set_trained(true);
  engine.uncertainty(problem.x);  // shapes the embedder
  std::vector<Adaptation> alone;
  for (const at::Tensor& sample : problem.x.split(1)) alone.push_back(engine.adapt(sample));
  engine.options.per_sample = true;
  engine.options.chunk_size = 5;
  expect_same(engine.adapt(problem.x), alone);
}

TEST(AdaptPerSample, GivesNothingForNoSamples) {
  PerSampleProblem problem;
  ScriptNetwork network(problem.module, "layer");
  const auto result =
      adapt(network, problem.method(), {.per_sample = true}, problem.x.narrow(0, 0, 0), nullptr, /*with_details=*/true);
  EXPECT_TRUE(result.weights.empty());
  EXPECT_EQ(result.prediction.sizes(), (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(result.losses.sizes(), (std::vector<std::int64_t>{0, 0}));
}

}  // namespace
}  // namespace it3::test
