#include "adapt/finite_check.h"

#include <cstdint>
#include <limits>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace it3::test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// What is said of a call whose losses and predictions are finite, and that keeps this weight beside another.
std::string said_of(const at::Tensor& weight) {
  detail::LoopOutcome outcome;
  outcome.result.losses = torch::rand({1});
  outcome.result.prediction = torch::rand({2, 3});
  outcome.unadapted = torch::rand({2, 3});
  outcome.report = detail::report_on(
      outcome.result.losses, outcome.result.prediction, outcome.unadapted, {torch::rand({5}), weight, torch::empty(0)});
  return detail::what_is_not_finite(outcome, /*first_sample=*/0);
}

class ChecksOfWeights : public testing::TestWithParam<at::ScalarType> {};

TEST_P(ChecksOfWeights, FindWhatIsNotFiniteAndNothingElse) {
  for (const std::int64_t side : {3, 150}) {  // few values are looked at in another way
    const auto weight = torch::rand({side, side}).to(GetParam());
    EXPECT_EQ(said_of(weight), "") << weight.sizes();
    const double greatest = GetParam() == at::kHalf ? 65504 : 1e30;
    EXPECT_EQ(said_of(weight.clone().fill_(greatest)), "") << weight.sizes();
    EXPECT_EQ(said_of(weight.clone().fill_(-greatest)), "") << weight.sizes();
    for (const double value : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()}) {
      auto broken = weight.clone();
      broken.index_put_({side - 1, 1}, value);
      EXPECT_EQ(said_of(broken), "an adapted weight is not finite") << weight.sizes() << value;
      EXPECT_EQ(said_of(broken.t()), "an adapted weight is not finite") << weight.sizes() << value;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes,
    ChecksOfWeights,
    testing::Values(at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kComplexFloat),
    [](const auto& item) { return c10::toString(item.param); });

}  // namespace
}  // namespace it3::test
