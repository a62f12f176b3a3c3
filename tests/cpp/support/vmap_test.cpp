#include "support/vmap.h"

#include <stdexcept>
#include <vector>

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace it3::test {
namespace {

using detail::Vmap;
using detail::WithoutVmap;

constexpr auto f64 = torch::kFloat64;

struct InVmap : testing::Test {
  InVmap() { torch::manual_seed(0); }

  at::Tensor x = torch::randn({4, 3, 5}, f64);
  at::Tensor w = torch::randn({4, 5, 2}, f64);
  at::Tensor shared = torch::randn({2}, f64);
};

TEST_F(InVmap, OperationsSeeOneSample) {
  const Vmap vmap(4);
  EXPECT_EQ(Vmap::wrap(x).sizes(), (std::vector<std::int64_t>{3, 5}));
  EXPECT_EQ(Vmap::wrap(torch::zeros({4})).dim(), 0);
}

TEST_F(InVmap, OperationsAreThoseOnEachSample) {
  at::Tensor result;
  {
    const Vmap vmap(4);
    result = Vmap::unwrap((Vmap::wrap(x).mm(Vmap::wrap(w)) + shared).tanh().sum(0));
  }
  ASSERT_EQ(result.sizes(), (std::vector<std::int64_t>{4, 2}));
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(torch::allclose(result[i], (x[i].mm(w[i]) + shared).tanh().sum(0), 1e-12, 1e-12)) << i;
  }
}

TEST_F(InVmap, UnwrappingPutsTheSamplesFirstWhereverTheyWere) {
  const Vmap vmap(3);
  const auto level = at::functorch::maybeCurrentDynamicLayer()->layerId();
  const at::Tensor sample = at::functorch::makeBatched(x, /*dim=*/1, level);
  EXPECT_TRUE(torch::equal(Vmap::unwrap(sample), x.transpose(0, 1)));
}

TEST_F(InVmap, UnwrappingRepeatsWhatIsTheSameForAllSamples) {
  const Vmap vmap(4);
  const at::Tensor all = Vmap::unwrap(shared);
  ASSERT_EQ(all.sizes(), (std::vector<std::int64_t>{4, 2}));
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_TRUE(torch::equal(all[i], shared)) << i;
}

TEST_F(InVmap, UnwrappedTensorsAreNoSamplesAnyMore) {
  const Vmap vmap(4);
  EXPECT_FALSE(Vmap::is_wrapped(Vmap::unwrap(Vmap::wrap(x))));
  EXPECT_FALSE(Vmap::is_wrapped(Vmap::unwrap(shared)));
}

TEST_F(InVmap, OnlyWhatComesFromASampleIsOne) {
  EXPECT_FALSE(Vmap::is_wrapped(x));
  const Vmap vmap(4);
  EXPECT_TRUE(Vmap::is_wrapped(Vmap::wrap(x)));
  EXPECT_TRUE(Vmap::is_wrapped(Vmap::wrap(x).sum() + shared));
  EXPECT_FALSE(Vmap::is_wrapped(shared));
  EXPECT_FALSE(Vmap::is_wrapped(shared + 1));
}

TEST_F(InVmap, AutogradGivesTheStackedTensorsTheirGradients) {
  const at::Tensor leaf = w.clone().requires_grad_(), constant = shared.clone().requires_grad_();
  at::Tensor losses;
  {
    const Vmap vmap(4);
    losses = Vmap::unwrap((Vmap::wrap(x).mm(Vmap::wrap(leaf)) * constant).square().mean());
  }
  losses.sum().backward();
  at::Tensor of_constant = torch::zeros_like(shared);
  for (std::int64_t i = 0; i < 4; ++i) {
    const at::Tensor alone = w[i].clone().requires_grad_(), c = shared.clone().requires_grad_();
    (x[i].mm(alone) * c).square().mean().backward();
    EXPECT_TRUE(torch::allclose(leaf.grad()[i], alone.grad(), 1e-12, 1e-12)) << i;
    of_constant += c.grad();
  }
  EXPECT_TRUE(torch::allclose(constant.grad(), of_constant, 1e-12, 1e-12));
}

TEST_F(InVmap, EachSampleDrawsItsOwnRandomNumbers) {
  torch::manual_seed(3);
  const at::Tensor expected = torch::rand({4, 5}, f64);
  torch::manual_seed(3);
  const Vmap vmap(4);
  EXPECT_TRUE(torch::equal(Vmap::unwrap(torch::rand({5}, f64)), expected));
}

TEST_F(InVmap, AnInnerOneTakesTheOuterOnesSamplesForConstants) {
  const Vmap outer(4);
  const at::Tensor sample = Vmap::wrap(x);
  {
    const Vmap inner(3);
    EXPECT_FALSE(Vmap::is_wrapped(sample));
    EXPECT_FALSE(Vmap::is_wrapped(sample + 1));
    EXPECT_TRUE(Vmap::is_wrapped(sample + Vmap::wrap(torch::zeros({3, 5}, f64))));
  }
  EXPECT_TRUE(Vmap::is_wrapped(sample));
  EXPECT_TRUE(torch::equal(Vmap::unwrap(sample), x));
}

TEST_F(InVmap, EndsWhenAnExceptionLeavesIt) {
  const auto fail = [&] {
    const Vmap vmap(4);
    Vmap::wrap(x).mm(Vmap::wrap(x));  // of shapes that do not fit
  };
  EXPECT_THROW(fail(), c10::Error);
  EXPECT_FALSE(at::functorch::maybeCurrentDynamicLayer().has_value());
  EXPECT_EQ((x + 1).dim(), 3);
}

/// Twice its argument, with a gradient of its own: three times the incoming one.
struct OfMyOwn : torch::autograd::Function<OfMyOwn> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& t) { return 2 * t; }
  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext*, const torch::autograd::variable_list& gradients) {
    return {3 * gradients.at(0)};
  }
};

TEST_F(InVmap, FunctionsWithGradientsOfTheirOwnRunOutsideOfIt) {
  const at::Tensor leaf = x.clone().requires_grad_();
  at::Tensor sum;
  {
    const Vmap vmap(4);
    EXPECT_ANY_THROW(OfMyOwn::apply(Vmap::wrap(leaf)));  // why there is a WithoutVmap
    const at::Tensor all = Vmap::unwrap(Vmap::wrap(leaf));
    at::Tensor doubled;
    {
      const WithoutVmap without_vmap;
      doubled = OfMyOwn::apply(all);
    }
    sum = Vmap::unwrap(Vmap::wrap(doubled).sum());
  }
  EXPECT_TRUE(torch::allclose(sum, 2 * x.sum({1, 2}), 1e-12, 1e-12));
  sum.sum().backward();
  EXPECT_TRUE(torch::equal(leaf.grad(), torch::full_like(x, 3)));
}

TEST_F(InVmap, OperationsOutsideOfItDrawOnceForAll) {
  torch::manual_seed(3);
  const at::Tensor expected = torch::rand({5}, f64);
  torch::manual_seed(3);
  const Vmap vmap(4);
  const WithoutVmap without_vmap;
  const at::Tensor drawn = torch::rand({5}, f64);
  EXPECT_EQ(at::functorch::maybeGetBatchedImpl(drawn), nullptr);
  EXPECT_TRUE(torch::equal(drawn, expected));
}

TEST_F(InVmap, GoesOnAfterAnExceptionOutsideOfIt) {
  const Vmap vmap(4);
  const auto fail = [&] {
    const WithoutVmap without_vmap;
    throw std::runtime_error("outside");
  };
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_TRUE(torch::equal(Vmap::unwrap(Vmap::wrap(x).t()), x.transpose(1, 2)));
}

}  // namespace
}  // namespace it3::test
