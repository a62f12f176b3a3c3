#include "support/tensor_memory.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace it3::detail {
namespace {

TEST(TensorMemory, SpansFromTheFirstElementToTheLast) {
  const at::Tensor all = torch::arange(12, torch::kFloat).view({3, 4});
  const MemorySpan whole = span_of(all), column = span_of(all.select(1, 1)), none = span_of(torch::empty({0}));
  EXPECT_EQ(whole.end - whole.begin, 48);
  EXPECT_EQ(column.begin - whole.begin, 4);
  EXPECT_EQ(column.end - column.begin, 4 * (4 + 4 + 1));
  EXPECT_EQ(column.storage, whole.storage);
  EXPECT_EQ(none.end - none.begin, 0);
}

TEST(TensorMemory, IsSharedWhereElementsAre) {
  const at::Tensor all = torch::arange(12, torch::kFloat).view({3, 4});
  EXPECT_TRUE(share_memory(all, all.t()));
  EXPECT_TRUE(share_memory(all.select(0, 1), all.slice(0, 1, 3)));
  EXPECT_FALSE(share_memory(all.select(0, 0), all.select(0, 1)));
  EXPECT_FALSE(share_memory(all, all.clone()));
}

TEST(TensorMemory, CopiesShareItAsTheirOriginalsDo) {
  const at::Tensor all = torch::arange(12, torch::kFloat).view({3, 4}), row = all.select(0, 1),
                   other = torch::ones({2});
  const MemoryCopies copies({all, row});
  const at::Tensor all_copy = copies(all), row_copy = copies(row);
  EXPECT_FALSE(all_copy.is_alias_of(all));
  all_copy.add_(1);
  EXPECT_TRUE(torch::equal(row_copy, torch::tensor({5.F, 6.F, 7.F, 8.F})));
  EXPECT_TRUE(torch::equal(row, torch::tensor({4.F, 5.F, 6.F, 7.F})));
  EXPECT_TRUE(copies(other).is_same(other));
}

TEST(TensorMemory, OfACopyIsWhereItWasInTheOriginal) {
  const at::Tensor own = torch::arange(6, torch::kFloat).view({2, 3}), copy = own + 10;
  EXPECT_TRUE(torch::equal(same_place_in(copy, own, own.t(), {}), copy.t()));
  EXPECT_TRUE(torch::equal(same_place_in(copy, own, own.select(1, 2), {}), copy.select(1, 2)));
  const at::Tensor stacked = torch::stack({own + 10, own + 20});
  EXPECT_TRUE(torch::equal(same_place_in(stacked, own, own.select(0, 1), 2), stacked.select(1, 1)));
  EXPECT_FALSE(same_place_in(copy, own.select(0, 0), own, {}).defined());
}

}  // namespace
}  // namespace it3::detail
