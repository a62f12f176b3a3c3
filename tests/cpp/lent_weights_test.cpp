#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(LentWeights, GivesEverythingBack) {
  const auto adapted = torch::randn({3, 2}).requires_grad_(), fixed = torch::randn({2}).requires_grad_();
  const auto value = adapted.detach().clone();
  const void* const address = adapted.data_ptr();
  const auto version = adapted._version();
  {
    const LentWeights lent({adapted}, {adapted, fixed});
    EXPECT_TRUE(torch::equal(adapted, value));
    EXPECT_NE(adapted.data_ptr(), address);
    EXPECT_TRUE(adapted.requires_grad());
    EXPECT_FALSE(fixed.requires_grad());
    lent.values()[0].mul_(2);
    EXPECT_TRUE(torch::equal(adapted, value * 2));
  }
  EXPECT_EQ(adapted.data_ptr(), address);
  EXPECT_EQ(adapted._version(), version);
  EXPECT_TRUE(torch::equal(adapted, value));
  EXPECT_TRUE(fixed.requires_grad());
}

TEST(LentWeights, KeepsWhatWasCommitted) {
  const auto adapted = torch::randn({3, 2}).requires_grad_();
  const auto value = adapted.detach().clone();
  const void* const address = adapted.data_ptr();
  const auto version = adapted._version();
  {
    LentWeights lent({adapted});
    lent.values()[0].mul_(2);
    lent.commit();
    lent.values()[0].mul_(2);
  }
  EXPECT_EQ(adapted.data_ptr(), address);
  EXPECT_GT(adapted._version(), version);
  EXPECT_TRUE(torch::equal(adapted, value * 2));
}

}  // namespace
}  // namespace it3::test
