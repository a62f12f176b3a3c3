#include <functional>

#include "network_fixture.h"

namespace it3::test {
namespace {

using TorchOptimizer = std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<at::Tensor>)>;

template <typename Optim, typename OptimOptions>
TorchOptimizer make(OptimOptions options) {
  return
      [options](std::vector<at::Tensor> parameters) { return std::make_unique<Optim>(std::move(parameters), options); };
}

struct Case {
  Options options;
  TorchOptimizer expected;
};

std::vector<Case> cases() {
  namespace optim = torch::optim;
  std::vector<Case> all;
  Options o{.lr = 1e-2};
  all.push_back({o, make<optim::Adam>(optim::AdamOptions(1e-2))});
  o.betas = {0.7, 0.8};
  o.eps = 1e-3;
  o.weight_decay = 0.1;
  all.push_back({o, make<optim::Adam>(optim::AdamOptions(1e-2).betas({0.7, 0.8}).eps(1e-3).weight_decay(0.1))});
  o = {.optimizer_name = OptimizerKind::adamw, .lr = 1e-2};
  all.push_back({o, make<optim::AdamW>(optim::AdamWOptions(1e-2).weight_decay(1e-2))});
  o = {.optimizer_name = OptimizerKind::sgd, .lr = 1e-2, .weight_decay = 0.1, .momentum = 0.9};
  all.push_back({o, make<optim::SGD>(optim::SGDOptions(1e-2).momentum(0.9).weight_decay(0.1))});
  o = {.optimizer_name = OptimizerKind::rmsprop, .lr = 1e-2, .momentum = 0.9};
  all.push_back({o, make<optim::RMSprop>(optim::RMSpropOptions(1e-2).momentum(0.9))});
  o = {.optimizer_name = OptimizerKind::adagrad, .lr = 1e-2, .weight_decay = 0.1};
  all.push_back({o, make<optim::Adagrad>(optim::AdagradOptions(1e-2).weight_decay(0.1))});
  return all;
}

TEST(Optimizer, StepsAsTorchsDo) {
  for (const auto& [options, make_expected] : cases()) {
    torch::manual_seed(0);
    const std::vector<at::Tensor> start = {
        torch::randn({4, 3}, f64), torch::randn({5}, f64), torch::randn({2, 2, 2}, f64)};
    std::vector<at::Tensor> ours, theirs;
    for (const auto& t : start) {
      ours.push_back(t.clone());
      theirs.push_back(t.clone().requires_grad_());
    }
    Optimizer optimizer(options, ours);
    const auto expected = make_expected(theirs);
    for (int step = 0; step < 5; ++step) {
      std::vector<at::Tensor> gradients;
      for (std::size_t i = 0; i < ours.size(); ++i) {
        const bool is_missing = i == 1 && step < 2;  // comes into play later than the others
        // Of another memory layout than the parameter.
        const auto gradient = torch::randn_like(start[i]).transpose(0, -1).contiguous().transpose(0, -1);
        gradients.push_back(is_missing ? at::Tensor() : gradient);
        theirs[i].mutable_grad() = is_missing ? at::Tensor() : gradient.clone();
      }
      optimizer.step(gradients);
      expected->step();
      for (std::size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(close(ours[i], theirs[i])) << to_string(options.optimizer_name) << " step " << step << " of " << i;
      }
    }
  }
}

TEST(Optimizer, ClipsByTheNormOverAllParameters) {
  const Options options{.optimizer_name = OptimizerKind::sgd, .lr = 1, .max_grad_norm = 1};
  const auto a = torch::zeros({1}, f64), b = torch::zeros({1}, f64);
  const auto shared = torch::tensor({3.0}, f64);
  Optimizer(options, {a, b}).step({shared, torch::tensor({4.0}, f64)});
  EXPECT_NEAR(a.item<double>(), -0.6, 1e-6);
  EXPECT_NEAR(b.item<double>(), -0.8, 1e-6);
  EXPECT_EQ(shared.item<double>(), 3.0);
}

TEST(Optimizer, StepsHalfPrecisionInFullPrecision) {
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    torch::manual_seed(0);
    const auto half = torch::randn({8}).to(dtype);
    const auto full = half.to(torch::kFloat);
    Optimizer half_optimizer(Options{}, {half}), full_optimizer(Options{}, {full});
    for (int step = 0; step < 20; ++step) {
      // Whose square is 0 in float16.
      const auto gradient = (torch::randn({8}) * 1e-4).to(dtype);
      half_optimizer.step({gradient});
      full_optimizer.step({gradient.to(torch::kFloat)});
    }
    EXPECT_TRUE(torch::equal(half, full.to(dtype)));
  }
}

TEST(Optimizer, StepsDtypesTogether) {
  const auto narrow = torch::ones({2}), wide = torch::ones({2}, f64);
  Optimizer(Options{}, {narrow, wide}).step({torch::ones({2}), torch::ones({2}, f64)});
  EXPECT_TRUE(torch::allclose(narrow.to(f64), wide));
  EXPECT_LT(wide[0].item<double>(), 1);
}

}  // namespace
}  // namespace it3::test
