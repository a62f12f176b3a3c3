#include "support/write_all.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace it3::detail {
namespace {

TEST(WriteAll, WritesValuesOfAnyLayoutAndType) {
  const at::Tensor leaf = torch::zeros({2, 3}, torch::requires_grad());
  const at::Tensor images = torch::zeros({2, 3, 4, 5}), halves = torch::zeros({4}, at::kHalf);
  const at::Tensor matrix = torch::randn({3, 2}).t(), pixels = torch::randn({2, 3, 4, 5});
  const auto version = leaf._version();
  write_all(
      {leaf, images, halves},
      {matrix, pixels.contiguous(at::MemoryFormat::ChannelsLast), torch::full({4}, 0.5, at::kDouble)});
  EXPECT_TRUE(torch::equal(leaf, matrix));
  EXPECT_TRUE(torch::equal(images, pixels));
  EXPECT_TRUE(images.is_contiguous());
  EXPECT_TRUE(torch::equal(halves, torch::full({4}, 0.5, at::kHalf)));
  EXPECT_EQ(leaf._version(), version + 1);
}

TEST(WriteAll, TensorsWithGapsToo) {
  const at::Tensor all = torch::zeros({3, 4});
  write_all({all.slice(1, 1, 3)}, {torch::ones({3, 2})});
  EXPECT_EQ(all.sum().item<float>(), 6);
  EXPECT_EQ(all.select(1, 0).sum().item<float>(), 0);
}

TEST(WriteAll, WritesNothingWhereOneDoesNotFit) {
  const at::Tensor all = torch::zeros({3, 4}), block = torch::zeros({2});
  const std::vector<at::Tensor> values = {torch::ones({3, 2}), torch::ones({3})};
  EXPECT_ANY_THROW(write_all({all.slice(1, 1, 3), block}, values));  // one after the other
  EXPECT_EQ(all.sum().item<float>(), 0);
  EXPECT_ANY_THROW(write_all({torch::zeros({3, 2}), block}, values));  // as blocks
  EXPECT_EQ(block.sum().item<float>(), 0);
}

}  // namespace
}  // namespace it3::detail
