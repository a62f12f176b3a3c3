#include "torchscript/script_comparison.h"

#include "network_fixture.h"
#include "torchscript/script_cut.h"

namespace it3::test {
namespace {

using detail::ComparedInputs;

TEST(ScriptComparison, RefusesACutThatGivesOtherResults) {
  torch::manual_seed(0);
  // Behind the layer it writes to what is no view for autograd, but the same memory.
  torch::jit::Module module("Net"), layer("Layer");
  layer.define("def forward(self, x):\n  return torch.tanh(x)\n");
  module.register_module("layer", layer);
  for (const char* const name : {"w", "v"}) {
    module.register_parameter(name, torch::randn({4}, f64).requires_grad_(), /*is_buffer=*/false);
  }
  module.define(R"(
def forward(self, x):
  h = x * self.w
  d = h.detach()
  y = self.layer.forward(x * self.v)
  d.add_(1)
  return y + h
)");
  ScriptNetwork network(module, "layer");
  const at::Tensor x = torch::randn({3, 4}, f64);
  for (int i = 0; i < 2; ++i) {
    try {
      network.checkout(network.parameters())->predict(x);
      FAIL();
    } catch (const c10::ValueError& error) {
      EXPECT_NE(std::string(error.what()).find("gives other results when cut at the layer 'layer'"), std::string::npos);
    }
  }
}

TEST(ComparedInputs, AreKnownAfterADecisionOrTwoTries) {
  ComparedInputs compared;
  EXPECT_FALSE(compared.contain(1));
  compared.add(1, /*is_decided=*/true);
  EXPECT_TRUE(compared.contain(1));
  compared.add(2, /*is_decided=*/false);
  EXPECT_FALSE(compared.contain(2));
  compared.add(2, /*is_decided=*/false);
  EXPECT_TRUE(compared.contain(2));
  EXPECT_FALSE(compared.contain(3));
}

}  // namespace
}  // namespace it3::test
