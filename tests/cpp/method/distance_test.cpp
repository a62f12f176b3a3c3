#include "network_fixture.h"

namespace it3::test {
namespace {

namespace F = torch::nn::functional;

TEST(Distance, AgreesWithTorchsLosses) {
  torch::manual_seed(0);
  const auto y1 = torch::randn({4, 5}, f64), y0 = torch::randn({4, 5}, f64);
  const auto p = y0.softmax(1), q = y1.softmax(1), m = (p + q) / 2;
  const auto kl = [](const at::Tensor& a, const at::Tensor& b) { return (a * (a / b).log()).sum(1).mean(); };
  const std::vector<std::pair<std::string, at::Tensor>> expected = {
      {"mse", F::mse_loss(y1, y0)},
      {"l1", F::l1_loss(y1, y0)},
      {"cross_entropy", F::cross_entropy(y1, p)},
      {"kl", kl(p, q)},
      {"js", (kl(p, m) + kl(q, m)) / 2},
      {"cosine", 1 - F::cosine_similarity(y1, y0).mean()},
  };
  ASSERT_EQ(expected.size(), distance_names().size());
  for (const auto& [name, value] : expected) {
    EXPECT_TRUE(close(distance_by_name(name).to_prediction(y1, y0), value)) << name;
  }
}

TEST(Distance, TakesTargetsAsProbabilities) {
  torch::manual_seed(0);
  const auto y1 = torch::randn({4, 5, 3}, f64);
  const auto classes = torch::randint(5, {4, 3});
  const auto target = torch::one_hot(classes, 5).movedim(-1, 1).to(f64);
  EXPECT_TRUE(close(
      distance_by_name("cross_entropy", {.channel_dim = 1}).to_target(y1, target), F::cross_entropy(y1, classes)));
  EXPECT_TRUE(close(distance_by_name("kl", {.channel_dim = 1}).to_target(y1, target), F::cross_entropy(y1, classes)));
}

TEST(Distance, NamesTheNearestForAnUnknownOne) {
  try {
    distance_by_name("cross-entropy");
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'cross_entropy'"), std::string::npos);
  }
}

}  // namespace
}  // namespace it3::test
