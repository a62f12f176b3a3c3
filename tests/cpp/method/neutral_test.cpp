#include "network_fixture.h"

namespace it3::test {
namespace {

/// The neutral signals of 200 calls, as a problem's embedding is given them first.
std::vector<at::Tensor> signals_of(const Neutral& neutral) {
  Problem problem;
  std::vector<at::Tensor> signals;
  Method method = problem.method();
  method.neutral = neutral;
  const Embed embed = method.embed;
  bool is_first = true;
  method.embed = [&](const at::Tensor& prediction, const at::Tensor& features) {
    if (std::exchange(is_first, false)) signals.push_back(prediction.detach().clone());
    return embed(prediction, features);
  };
  const Options options{.num_steps = 0};
  for (int i = 0; i < 200; ++i) {
    is_first = true;
    adapt(*problem.network, method, options, problem.x);
  }
  return signals;
}

TEST(Neutral, CanBeARandomClass) {
  const auto all = torch::stack(signals_of(RandomOneHot()));  // (200, 6, 3)
  EXPECT_TRUE(torch::equal(all.sum(-1), torch::ones({200, 6}, f64)));
  EXPECT_TRUE(((all == 0) | (all == 1)).all().item<bool>());
  const auto shares = all.mean({0, 1});
  EXPECT_TRUE(((shares - 1. / 3).abs() < 0.06).all().item<bool>()) << shares;  // 5 standard deviations of 1,200 draws
}

TEST(Neutral, CanBeDrawnFromLabels) {
  const auto labels = torch::tensor({0, 0, 0, 2});
  const auto all = torch::stack(signals_of(DrawnLabels{labels}));
  const auto shares = all.mean({0, 1});
  EXPECT_TRUE(((shares - torch::tensor({0.75, 0., 0.25}, f64)).abs() < 0.07).all().item<bool>()) << shares;
  const auto numbers = torch::randn({4, 3}, f64);
  for (const auto& signal : signals_of(DrawnLabels{numbers})) {
    EXPECT_TRUE((signal.unsqueeze(1) == numbers).all(-1).any(-1).all().item<bool>());
  }
}

TEST(Neutral, CanBeAFunction) {
  int calls = 0;
  const NeutralFunction function = [&](const at::Tensor& prediction) {
    ++calls;
    return torch::full({prediction.size(1)}, calls, torch::kDouble);
  };
  const auto signals = signals_of(function);
  EXPECT_EQ(calls, 200);
  EXPECT_TRUE(torch::equal(signals[7], torch::full({6, 3}, 8, f64)));
}

TEST(Neutral, IsRefusedWhereItIsNone) {
  EXPECT_THROW(check_neutral(NeutralFunction()), c10::ValueError);
  EXPECT_THROW(check_neutral(DrawnLabels{}), c10::ValueError);
  EXPECT_THROW(check_neutral(DrawnLabels{torch::zeros({0})}), c10::ValueError);
  EXPECT_THROW(check_neutral(DrawnLabels{torch::full({3}, NAN)}), c10::ValueError);
  EXPECT_THROW(signals_of(NeutralFunction([](const at::Tensor&) { return torch::zeros({7}); })), c10::ValueError);
  EXPECT_THROW(signals_of(NeutralFunction([](const at::Tensor&) { return at::Tensor(); })), c10::ValueError);
}

}  // namespace
}  // namespace it3::test
