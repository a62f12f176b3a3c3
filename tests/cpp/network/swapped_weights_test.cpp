#include "network_fixture.h"

namespace it3::test {
namespace {

std::vector<NamedParameter> named(const std::vector<at::Tensor>& tensors) {
  std::vector<NamedParameter> parameters;
  for (const auto& t : tensors) parameters.push_back({c10::str("p", parameters.size()), t});
  return parameters;
}

TEST(SwappedWeights, GivesEverythingBack) {
  const auto adapted = torch::randn({3, 2}).requires_grad_(), fixed = torch::randn({2}).requires_grad_();
  const auto value = adapted.detach().clone();
  const void* const address = adapted.data_ptr();
  const auto version = adapted._version();
  {
    const SwappedWeights swapped(named({adapted}), {adapted, fixed});
    EXPECT_TRUE(torch::equal(adapted, value));
    EXPECT_NE(adapted.data_ptr(), address);
    EXPECT_TRUE(adapted.requires_grad());
    EXPECT_FALSE(fixed.requires_grad());
    swapped.values()[0].mul_(2);
    EXPECT_TRUE(torch::equal(adapted, value * 2));
  }
  EXPECT_EQ(adapted.data_ptr(), address);
  EXPECT_EQ(adapted._version(), version);
  EXPECT_TRUE(torch::equal(adapted, value));
  EXPECT_TRUE(fixed.requires_grad());
}

TEST(SwappedWeights, KeepsWhatWasCommitted) {
  const auto adapted = torch::randn({3, 2}).requires_grad_();
  const auto value = adapted.detach().clone();
  const void* const address = adapted.data_ptr();
  const auto version = adapted._version();
  {
    SwappedWeights swapped(named({adapted}));
    swapped.values()[0].mul_(2);
    swapped.commit();
    swapped.values()[0].mul_(2);
  }
  EXPECT_EQ(adapted.data_ptr(), address);
  EXPECT_GT(adapted._version(), version);
  EXPECT_TRUE(torch::equal(adapted, value * 2));
}

TEST(SwappedWeights, TensorsOverTheMemoryOfAnAdaptedOneFollowIt) {
  const auto memory = torch::randn({20});
  const auto adapted = memory.slice(0, 1, 17).view({4, 4}).requires_grad_();
  const auto transposed = adapted.detach().t();
  const auto row = adapted.detach()[2].requires_grad_();
  const auto wider = memory.slice(0, 0, 8), beside = memory.slice(0, 17, 20);
  const auto pairs = torch::view_as_complex(memory.slice(0, 2, 6).view({2, 2}));
  const auto bits = adapted.detach().view(torch::kInt32);
  const auto before = memory.clone();
  {
    SwappedWeights swapped(named({adapted}), {adapted, transposed, row, wider, beside, pairs, bits});
    swapped.values()[0].add_(1);
    EXPECT_TRUE(torch::equal(transposed, adapted.detach().t()));
    EXPECT_EQ(transposed.strides(), (std::vector<std::int64_t>{1, 4}));
    EXPECT_TRUE(torch::equal(row, adapted[2]));
    EXPECT_TRUE(torch::equal(wider.slice(0, 1, 8), adapted.detach().view({-1}).slice(0, 0, 7)));
    EXPECT_TRUE(torch::equal(bits.view(torch::kFloat), adapted.detach()));
    EXPECT_EQ(torch::real(pairs)[0].item<float>(), adapted.view({-1})[1].item<float>());
    EXPECT_EQ(beside.data_ptr(), memory.data_ptr<float>() + 17);
    EXPECT_TRUE(torch::equal(memory, before));
    const auto constants = torch::full({4, 4}, 5.);
    swapped.set_constants({constants});
    EXPECT_TRUE(torch::equal(transposed, constants));
    EXPECT_EQ(wider[1].item<float>(), 5);
    swapped.clear_constants();
    EXPECT_TRUE(torch::equal(transposed, adapted.detach().t()));
    EXPECT_FALSE(torch::equal(adapted.detach(), constants));
    swapped.commit();
  }
  EXPECT_TRUE(torch::equal(transposed, before.slice(0, 1, 17).view({4, 4}).t() + 1));
  EXPECT_EQ(transposed.data_ptr(), memory.data_ptr<float>() + 1);
  EXPECT_EQ(wider[0].item<float>(), before[0].item<float>());
  EXPECT_TRUE(row.requires_grad());
}

TEST(SwappedWeights, MemoryOfTwoOwnersIsStillOneMemory) {
  const auto adapted = torch::randn({6}).requires_grad_();
  const auto other = torch::from_blob(adapted.data_ptr(), {6});  // another storage
  const SwappedWeights swapped(named({adapted}), {other});
  swapped.values()[0].mul_(3);
  EXPECT_TRUE(torch::equal(other, adapted.detach()));
}

TEST(SwappedWeights, NamesAdaptedParametersOverOneMemory) {
  const auto a = torch::randn({4, 4}).requires_grad_();
  const auto b = a.detach().t().requires_grad_();
  try {
    const SwappedWeights swapped(named({a, b}));
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("'p0' and 'p1'"), std::string::npos);
  }
  EXPECT_EQ(a.data_ptr(), b.data_ptr());
  const auto memory = torch::randn({8});  // as cuDNN's recurrent layers have theirs
  const auto first = memory.slice(0, 0, 4).requires_grad_(), second = memory.slice(0, 4, 8).requires_grad_();
  EXPECT_NO_THROW(SwappedWeights(named({first, second})));
}

TEST(SwappedWeights, ParametersWithGapsOfOthersDoNotAdapt) {
  const auto whole = torch::randn({4, 4});
  const auto columns = whole.slice(1, 0, 2).requires_grad_();
  EXPECT_THROW(SwappedWeights(named({columns}), {whole}), c10::ValueError);
  EXPECT_NO_THROW(SwappedWeights(named({columns})));
}

TEST(SwappedWeights, WhatAPassWritesDoesNotStay) {
  const auto adapted = torch::randn({3}).requires_grad_(), fixed = torch::randn({3}).requires_grad_();
  const auto buffer = torch::zeros({3}), view = buffer.slice(0, 1, 3);
  const auto before = fixed.detach().clone();
  {
    const SwappedWeights swapped(named({adapted}), {fixed}, {fixed, buffer, view});
    fixed.data().add_(1);        // which autograd is not told of
    buffer.add_(adapted.sum());  // makes it a result
    EXPECT_TRUE(torch::equal(view, buffer.slice(0, 1, 3)));
    const auto written = swapped.written();
    ASSERT_GE(written.size(), 2);
    EXPECT_TRUE(written[0].is_same(fixed));
  }
  EXPECT_TRUE(torch::equal(fixed, before));
  EXPECT_TRUE(torch::equal(buffer, torch::zeros({3})));
  EXPECT_FALSE(buffer.requires_grad());
  EXPECT_TRUE(buffer.is_leaf());
}

TEST(SwappedWeights, ConstantsThatAModelWritesToStay) {
  const auto adapted = torch::randn({3}).requires_grad_();
  const auto start = torch::ones({3});
  SwappedWeights swapped(named({adapted}), {}, {adapted});
  swapped.set_constants({start});
  adapted.mul_(2);
  swapped.clear_constants();
  EXPECT_TRUE(torch::equal(start, torch::ones({3})));
}

}  // namespace
}  // namespace it3::test
