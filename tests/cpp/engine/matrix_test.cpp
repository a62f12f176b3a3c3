// torch::nn networks adapt by every combination of options as the formula does, or say why not.
#include <memory>
#include <tuple>

#include "network_fixture.h"

namespace it3::test {
namespace {

std::unique_ptr<torch::optim::Optimizer> optimizer_of(OptimizerKind name, const std::vector<at::Tensor>& weights) {
  using namespace torch::optim;
  switch (name) {
    case OptimizerKind::adam: return std::make_unique<Adam>(weights, AdamOptions(1e-2));
    case OptimizerKind::adamw: return std::make_unique<AdamW>(weights, AdamWOptions(1e-2));
    case OptimizerKind::sgd: return std::make_unique<SGD>(weights, SGDOptions(1e-2));
    case OptimizerKind::rmsprop: return std::make_unique<RMSprop>(weights, RMSpropOptions(1e-2));
    case OptimizerKind::adagrad: return std::make_unique<Adagrad>(weights, AdagradOptions(1e-2));
  }
  return nullptr;
}

at::Tensor second_of(NetImpl& net, const at::Tensor& x, const at::Tensor& embedding) {
  const auto hidden = torch::tanh(net.norm(net.first(x)));
  return net.last(torch::tanh(net.middle(hidden) + embedding + hidden));
}

/// Three steps by the formula on copies of the net.
at::Tensor by_formula(const Problem& problem, const Options& options, const at::Tensor& x) {
  Net net, anchor;
  const torch::NoGradGuard no_grad;
  for (Net copy : {net, anchor}) {
    for (std::size_t i = 0; i < copy->parameters().size(); ++i)
      copy->parameters()[i].copy_(problem.net->parameters()[i]);
    for (std::size_t i = 0; i < copy->buffers().size(); ++i) copy->buffers()[i].copy_(problem.net->buffers()[i]);
    copy->norm->train(options.norm_statistics == NormStatistics::batch);
  }
  const auto weights = net->parameters(), averages = anchor->parameters();
  const auto optimizer = optimizer_of(options.optimizer_name, weights);
  for (int step = 0; step < 3; ++step) {
    const torch::AutoGradMode with_gradients(true);
    const auto y0 = net->forward(x);
    NetImpl& other = options.anchor == AnchorKind::self ? *net : *anchor;
    const auto loss = (second_of(other, x, y0.matmul(problem.embedding)) - y0).square().mean();
    optimizer->zero_grad();
    loss.backward();
    optimizer->step();
    if (options.anchor != AnchorKind::ema) continue;
    const torch::NoGradGuard no_gradients;
    for (std::size_t i = 0; i < weights.size(); ++i) averages[i].mul_(0.99).add_(weights[i], 0.01);
  }
  return net->forward(x);
}

using Combination = std::tuple<AnchorKind, OptimizerKind, NormStatistics, bool>;
class Matrix : public testing::TestWithParam<Combination> {};

TEST_P(Matrix, AgreesWithTheFormula) {
  Problem problem;
  Options options{.lr = 1e-2};
  std::tie(options.anchor, options.optimizer_name, options.norm_statistics, options.per_sample) = GetParam();
  const auto run = [&] { return adapt(*problem.network, problem.method(), options, problem.x).prediction; };
  const bool is_one_value = options.per_sample && options.norm_statistics == NormStatistics::batch;
  if (is_one_value || options.norm_statistics == NormStatistics::blend) {
    const auto before = problem.snapshot();
    EXPECT_ANY_THROW(run());  // which torch::nn's layers cannot do
    EXPECT_TRUE(equal(problem.snapshot(), before));
    return;
  }
  if (!options.per_sample) {
    EXPECT_TRUE(close(run(), by_formula(problem, options, problem.x)));
    return;
  }
  std::vector<at::Tensor> alone;
  for (const auto& sample : problem.x.split(1)) alone.push_back(by_formula(problem, options, sample));
  EXPECT_TRUE(close(run(), torch::cat(alone)));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    Matrix,
    testing::Combine(
        testing::Values(AnchorKind::self, AnchorKind::frozen, AnchorKind::ema),
        testing::Values(
            OptimizerKind::adam,
            OptimizerKind::adamw,
            OptimizerKind::sgd,
            OptimizerKind::rmsprop,
            OptimizerKind::adagrad),
        testing::Values(NormStatistics::running, NormStatistics::batch, NormStatistics::blend),
        testing::Bool()));

}  // namespace
}  // namespace it3::test
