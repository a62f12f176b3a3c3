#include "autograd/gradients.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace it3::test {
namespace {

using torch::autograd::variable_list;

struct Leaves {
  at::Tensor a = torch::randn({4, 5}).requires_grad_();
  at::Tensor b = torch::randn({5}).requires_grad_();
  at::Tensor unused = torch::randn({3}).requires_grad_();
  at::Tensor scalar = torch::ones({}).requires_grad_();
  variable_list all() const { return {a, b, unused, scalar}; }
};

at::Tensor skip_and_broadcast(const Leaves& l) {
  const at::Tensor hidden = (l.a * l.b).tanh();
  return ((hidden + l.b).relu() + hidden).mm(l.a.t()).pow(2).mean();
}

at::Tensor in_place_on_views(const Leaves& l) {
  at::Tensor x = l.a * 2;
  x.select(0, 1).mul_(l.b);
  x.relu_();
  return (x.slice(1, 1, 4).sum(0) * x.slice(1, 0, 3).mean(0)).sum();
}

at::Tensor used_many_times(const Leaves& l) {
  at::Tensor x = l.a;
  for (int i = 0; i < 5; ++i) x = x * l.a.sigmoid() + l.b + x;
  return x.std() + l.a.norm() + l.b.sum();
}

at::Tensor several_outputs(const Leaves& l) {
  const auto [values, indices] = l.a.sort(1);
  const auto parts = values.chunk(2, 1);
  const auto [least, greatest] = at::aminmax(parts[0]);
  return at::cat({parts[1].sum().reshape(1), (greatest - least).reshape(1), l.b}).logsumexp(0);
}

at::Tensor constants_that_require_gradients(const Leaves& l) {
  const at::Tensor other = torch::randn({5, 5}).requires_grad_();
  return (l.a.mm(other) * l.b).sin().sum();
}

at::Tensor no_graph(const Leaves& l) { return l.scalar; }

at::Tensor a_hook(const Leaves& l) {
  const at::Tensor hidden = l.a * l.b;
  hidden.register_hook([](const at::Tensor& gradient) { return gradient * 3; });
  return hidden.exp().sum();
}

at::Tensor sparse_gradients(const Leaves& l) {
  const at::Tensor rows = torch::tensor({0, 2, 2});
  const auto looked_up = at::embedding(l.a, rows, /*padding_idx=*/-1, /*scale_grad_by_freq=*/false, /*sparse=*/true);
  return (looked_up * l.b).sum() + at::embedding(l.a, rows, -1, false, /*sparse=*/true).sum();
}

using Function = at::Tensor (*)(const Leaves&);
class Gradients : public testing::TestWithParam<Function> {};

TEST_P(Gradients, EqualTheAutogradEnginesToTheBit) {
  torch::manual_seed(0);
  const Leaves leaves;
  const auto at_same_state = [&] {
    torch::manual_seed(1);
    return GetParam()(leaves);
  };
  const variable_list expected = torch::autograd::grad(
      {at_same_state()}, leaves.all(), {}, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
      /*allow_unused=*/true);
  for (const bool is_plain : {true, false}) {
    const variable_list actual = detail::gradients_of(at_same_state(), leaves.all(), is_plain);
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      ASSERT_EQ(actual[i].defined(), expected[i].defined()) << i;
      if (!actual[i].defined()) continue;
      EXPECT_EQ(actual[i].is_sparse(), expected[i].is_sparse());
      EXPECT_TRUE(torch::equal(actual[i].to_dense(), expected[i].to_dense())) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Graphs,
    Gradients,
    testing::Values(
        skip_and_broadcast,
        in_place_on_views,
        used_many_times,
        several_outputs,
        constants_that_require_gradients,
        no_graph,
        a_hook,
        sparse_gradients));

TEST(Gradients, NeedALeafThatTheLossDependsOn) {
  const Leaves leaves;
  for (const bool is_plain : {true, false}) {
    EXPECT_THROW(detail::gradients_of(leaves.a.sum(), {leaves.unused}, is_plain), c10::ValueError);
    EXPECT_THROW(detail::gradients_of(torch::ones({}), {leaves.a}, is_plain), c10::ValueError);
  }
}

}  // namespace
}  // namespace it3::test
