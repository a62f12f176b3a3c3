#pragma once

#include <functional>
#include <memory>
#include <utility>

#include <it3/backend/first_call.h>

#include "network_fixture.h"

namespace it3::test {

/// An embedder of the tests' own, (3) to (8), whose weights come at its first call.
class Lazy : public LazyEmbedder {
 public:
  Lazy() : LazyEmbedder(this) {}

  bool is_built() const override { return weight.defined(); }
  std::function<void()> clearing() override {
    return [this] { weight = at::Tensor(); };
  }
  Layouts layouts() const override { return {}; }
  void set_layouts(const Layouts& layouts) override { settled = layouts; }
  EmbedderWeights weights() const override { return {}; }
  bool is_plain() const override { return false; }
  at::Tensor operator()(const at::Tensor& prediction, const at::Tensor&) override {
    if (!weight.defined()) {
      ++times_built;
      weight = torch::randn({3, 8}, f64);
    }
    return prediction.matmul(weight);
  }

  at::Tensor weight;
  Layouts settled;
  int times_built = 0;
};

inline EngineSetup setup_with(std::shared_ptr<LazyEmbedder> embedder) {
  return {.functions = {.embedder = std::move(embedder), .distance = distance_by_name("mse")}};
}

}  // namespace it3::test
