// The tests that make something fail at every point see it where a call does not leave all as it was.
#include "faults/every_point.h"

#include <gtest/gtest.h>

#include "faults/failing_operators.h"

namespace it3::test {
namespace {

/// What a snapshot sees of a change.
std::string seen(const std::function<void(Subject&)>& change) {
  Subject subject(Kind::sequential, {.num_steps = 1});
  subject.engine().uncertainty(subject.x);
  const Snapshot before(subject);
  change(subject);
  return before.difference_to(Snapshot(subject));
}

at::Tensor tensor_of(const Subject& subject, const std::string& name) {
  for (const auto& [key, tensor] : subject.tensors()) {
    if (key == name) return tensor;
  }
  return {};
}

TEST(Snapshot, SeesEveryChange) {
  EXPECT_EQ(seen([](Subject&) {}), "");
  EXPECT_EQ(seen([](Subject& s) { tensor_of(s, "a.weight").detach()[0][0].mul_(1 + 1e-7); }), "values of a.weight; ");
  EXPECT_EQ(seen([](Subject& s) { tensor_of(s, "norm.running_mean").add_(1); }), "values of norm.running_mean; ");
  EXPECT_EQ(seen([](Subject& s) { tensor_of(s, "embedder.bias1").detach().neg_(); }), "values of embedder.bias1; ");
  EXPECT_EQ(seen([](Subject& s) { tensor_of(s, "a.bias").mutable_grad().add_(1); }), "gradient of a.bias; ");
  EXPECT_EQ(seen([](Subject& s) { tensor_of(s, "b.bias").set_requires_grad(true); }), "requires_grad of b.bias; ");
  EXPECT_EQ(
      seen([](Subject& s) { tensor_of(s, "b.weight").set_data(tensor_of(s, "b.weight").detach().clone()); }),
      "memory of b.weight; ");
  EXPECT_NE(seen([](Subject& s) { s.train(true); }), "");
  EXPECT_EQ(seen([](Subject&) { torch::rand({}); }), "random state; ");
  EXPECT_NE(seen([](Subject&) { at::GradMode::set_enabled(false); }), "");
  at::GradMode::set_enabled(true);
  EXPECT_NE(seen([](Subject& s) { std::ofstream(s.folder.file("left behind")) << 1; }), "");
}

TEST(EveryPoint, ReportsChangesWrongResultsAndCrashes) {
  const auto run = [](const std::function<void(Subject&)>& undo) {
    Call call = uncertainty_call();
    call.run = [undo](Subject& s) -> std::vector<at::Tensor> {
      const at::Tensor weight = tensor_of(s, "a.weight").detach();
      try {
        return {weight + 1};
      } catch (...) {
        undo(s);
        throw;
      }
    };
    return every_point(
        call, [] { return std::make_unique<Subject>(Kind::sequential, Options{.num_steps = 1}); },
        [](std::int64_t n) { return std::make_unique<FailingOperators>(n); });
  };
  const Tally good = run([](Subject&) {});
  EXPECT_GT(good.points, 1);
  EXPECT_EQ(good.raised, good.points);
  EXPECT_TRUE(good.faults.empty());
  EXPECT_FALSE(run([](Subject& s) { tensor_of(s, "a.weight").detach().add_(1); }).faults.empty());
  const Tally crashed = run([](Subject&) { std::terminate(); });
  EXPECT_GT(crashed.crashes, 1);
  EXPECT_EQ(crashed.faults.size(), static_cast<std::size_t>(crashed.crashes));
}

}  // namespace
}  // namespace it3::test
