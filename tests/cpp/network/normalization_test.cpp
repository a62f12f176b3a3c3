#include "network_fixture.h"

namespace it3::test {
namespace {

struct Layer {
  at::Tensor x = torch::randn({4, 3, 5}, f64), weight = torch::rand({3}, f64), bias = torch::rand({3}, f64),
             mean = torch::rand({3}, f64), var = torch::rand({3}, f64);

  at::Tensor by(const at::Tensor& m, const at::Tensor& v) const {
    const auto column = [](const at::Tensor& t) { return t.view({3, 1}); };
    return (x - column(m)) / (column(v) + 1e-5).sqrt() * column(weight) + column(bias);
  }
  at::Tensor ours(const Normalization& how) const { return batch_norm(x, weight, bias, mean, var, 1e-5, how); }
};

TEST(BatchNorm, AgreesWithTheFormula) {
  torch::manual_seed(0);
  const Layer layer;
  const auto before = layer.mean.clone();
  const auto mean = layer.x.mean(at::IntArrayRef{0, 2}), var = layer.x.var(at::IntArrayRef{0, 2}, false);
  EXPECT_TRUE(close(layer.ours({}), layer.by(layer.mean, layer.var)));
  EXPECT_TRUE(close(layer.ours({NormStatistics::batch, {}}), layer.by(mean, var)));
  const auto mixed = [](const at::Tensor& a, const at::Tensor& b) { return (12 * a + 4 * b) / 16; };
  EXPECT_TRUE(
      close(layer.ours({NormStatistics::blend, 12.}), layer.by(mixed(layer.mean, mean), mixed(layer.var, var))));
  EXPECT_TRUE(torch::equal(layer.mean, before));
}

TEST(BatchNorm, IsDifferentiable) {
  torch::manual_seed(0);
  Layer layer;
  layer.x.requires_grad_();
  const at::Tensor direction = torch::randn_like(layer.x), out = torch::randn_like(layer.x);
  for (const auto statistics : {NormStatistics::batch, NormStatistics::blend}) {
    const Normalization how{statistics, {}};
    const auto gradient = torch::autograd::grad({(layer.ours(how) * out).sum()}, {layer.x})[0];
    const auto moved = [&](double by) {
      Layer other = layer;
      other.x = (layer.x + by * direction).detach();
      return (other.ours(how) * out).sum().item<double>();
    };
    const double slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
    EXPECT_NEAR((gradient * direction).sum().item<double>(), slope, 1e-6);
  }
}

TEST(ModuleNetwork, NormalizesByTheBatchAndSaysThatItCannotBlend) {
  Problem problem;
  Options options;
  options.num_steps = 0;
  options.norm_statistics = NormStatistics::batch;
  const auto before = problem.snapshot();
  const auto prediction = adapt(*problem.network, problem.method(), options, problem.x).prediction;
  EXPECT_TRUE(equal(problem.snapshot(), before));
  EXPECT_FALSE(problem.net->norm->is_training());
  problem.net->norm->train();
  EXPECT_TRUE(close(prediction, problem.net->forward(problem.x)));
  options.norm_statistics = NormStatistics::blend;
  EXPECT_THROW(adapt(*problem.network, problem.method(), options, problem.x), c10::ValueError);
  torch::nn::Sequential plain({{"a", torch::nn::Linear(5, 4)}, {"b", torch::nn::Linear(4, 3)}});
  options.norm_statistics = NormStatistics::batch;
  EXPECT_THROW(
      Engine(std::make_shared<ModuleNetwork>(plain, "a"), options).adapt(torch::randn({2, 5})), c10::ValueError);
}

TEST(Engine, CalibratesItsThreshold) {
  torch::manual_seed(0);
  torch::nn::Sequential model({{"a", torch::nn::Linear(5, 4)}, {"b", torch::nn::Linear(4, 3)}});
  Engine engine(std::make_shared<ModuleNetwork>(model, "a"));
  const std::vector<Inputs> batches = {torch::randn({6, 5}), torch::randn({5, 5})};
  const auto distances = torch::cat({engine.uncertainty(batches[0]), engine.uncertainty(batches[1])});
  EXPECT_NEAR(engine.calibrate(batches, 0.6), std::get<0>(distances.sort())[6].item<double>(), 1e-6);
  EXPECT_EQ(engine.adapt(batches[0]).adapted_samples.sizes(), at::IntArrayRef{6});
  EXPECT_THROW(engine.calibrate(batches, 2), c10::ValueError);
  EXPECT_THROW(engine.calibrate({}), c10::ValueError);
}

}  // namespace
}  // namespace it3::test
