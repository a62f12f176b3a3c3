#include "torchscript/script_cut.h"

#include <algorithm>
#include <functional>

#include <torch/csrc/jit/ir/ir.h>

#include "error_of.h"
#include "network_fixture.h"
#include "support/vmap.h"

namespace it3::test {
namespace {

using detail::ComparedInputs;
using detail::cut_script;
using detail::LiftedTensor;
using detail::ScriptCut;
using torch::jit::Stack;

const std::string plain_layer = "def forward(self, x):\n  return torch.tanh(x)\n";

/// A module around a layer, with weights, buffers and other attributes to read.
torch::jit::Module with_layer(const std::string& forward, const std::string& layer = plain_layer) {
  torch::manual_seed(0);
  torch::jit::Module inner("Layer");
  inner.register_attribute("training", c10::BoolType::get(), false);
  inner.define(layer);
  torch::jit::Module module("Net");
  module.register_module("layer", inner);
  module.register_parameter("w", torch::randn({4, 4}, f64) / 2, /*is_buffer=*/false);
  module.register_parameter("v", torch::randn({4, 4}, f64) / 2, /*is_buffer=*/false);
  module.register_buffer("calls", torch::zeros({}, f64));
  module.register_buffer("mean", torch::full({4}, 0.1, f64));
  module.register_buffer("var", torch::full({4}, 2.0, f64));
  module.register_attribute("training", c10::BoolType::get(), true);
  module.register_attribute("scale", c10::FloatType::get(), 1.0);
  module.register_attribute("sizes", c10::ListType::create(c10::IntType::get()), c10::List<std::int64_t>{2, 2});
  module.define(forward);
  return module;
}

ScriptCut cut(const torch::jit::Module& module, bool in_eval_mode = true, const Normalization& normalization = {}) {
  return cut_script(module, {"layer", {}, {}}, in_eval_mode, normalization, /*per_sample=*/false);
}

ScriptCut cut(const std::string& forward, const std::string& layer = plain_layer) {
  return cut(with_layer(forward, layer));
}

Stack run(const torch::jit::Code& code, Stack stack) {
  torch::jit::InterpreterState(code).run(stack);
  return stack;
}

Stack with_lifted(const ScriptCut& cut, Stack stack) {
  for (const auto& lifted : cut.lifted) stack.emplace_back(lifted.get());
  return stack;
}

/// (features, crossing...)
Stack run_head(const ScriptCut& cut, const at::Tensor& x) { return run(cut.head, with_lifted(cut, {x})); }

at::Tensor run_tail(const ScriptCut& cut, Stack handed, const at::Tensor& x) {
  handed.emplace_back(x);
  return run(cut.tail, with_lifted(cut, std::move(handed))).at(0).toTensor();
}

const LiftedTensor& lifted(const ScriptCut& cut, const std::string& name) {
  for (const auto& tensor : cut.lifted) {
    if (tensor.name == name) return tensor;
  }
  throw std::out_of_range(name);
}

struct Cut : testing::Test {
  Cut() { torch::manual_seed(1); }
  at::Tensor x = torch::randn({3, 4}, f64);
};

const std::string skip = R"(
def forward(self, x):
  h = torch.sin(x.matmul(self.w))
  m = self.layer.forward(h)
  return (m + h).matmul(self.v)
)";

TEST_F(Cut, GoesBehindTheLayerAndHandsOnWhatGoesAroundIt) {
  const auto module = with_layer(skip);
  const ScriptCut c = cut(module);
  const at::Tensor h = torch::sin(x.matmul(module.attr("w").toTensor()));
  const Stack handed = run_head(c, x);
  EXPECT_EQ(c.inputs, 1);
  EXPECT_EQ(c.crossing, 1);
  ASSERT_EQ(handed.size(), 2);
  EXPECT_TRUE(close(handed[0].toTensor(), torch::tanh(h)));
  EXPECT_TRUE(close(handed[1].toTensor(), h));
}

TEST_F(Cut, InjectedFeaturesTakeThePlaceOfTheLayersInTheTailAlone) {
  const auto module = with_layer(skip);
  const ScriptCut c = cut(module);
  const at::Tensor h = torch::sin(x.matmul(module.attr("w").toTensor())), v = module.attr("v").toTensor();
  Stack handed = run_head(c, x);
  EXPECT_TRUE(close(run_tail(c, handed, x), (torch::tanh(h) + h).matmul(v)));
  handed[0] = torch::ones({3, 4}, f64);
  EXPECT_TRUE(close(run_tail(c, handed, x), (1 + h).matmul(v)));
}

TEST_F(Cut, WholeIsForwardAsItStands) {
  const auto module = with_layer(skip);
  const at::Tensor h = torch::sin(x.matmul(module.attr("w").toTensor()));
  const at::Tensor whole = run(cut(module).whole, {module._ivalue(), x}).at(0).toTensor();
  EXPECT_TRUE(close(whole, (torch::tanh(h) + h).matmul(module.attr("v").toTensor())));
}

TEST_F(Cut, OfTheWholeModuleLeavesTheTailNothingToDo) {
  const auto module = with_layer(skip);
  const ScriptCut c = cut_script(module, {"", {}, {}}, true, {}, false);
  const at::Tensor h = torch::sin(x.matmul(module.attr("w").toTensor()));
  const Stack handed = run_head(c, x);
  ASSERT_EQ(handed.size(), 1);
  EXPECT_TRUE(close(handed[0].toTensor(), (torch::tanh(h) + h).matmul(module.attr("v").toTensor())));
  EXPECT_TRUE(torch::equal(run_tail(c, {2 * x}, x), 2 * x));
}

TEST_F(Cut, LooksIntoThePrediction) {
  const auto module = with_layer("def forward(self, x):\n  return self.layer.forward(x), 1.0\n");
  const ScriptCut c = cut_script(module, {"layer", OutputPath{std::int64_t{0}}, {}}, true, {}, false);
  EXPECT_TRUE(torch::equal(run_tail(c, {3 * x}, x), 3 * x));
  EXPECT_TRUE(c.output.has_value() && c.output->empty());
}

TEST_F(Cut, RunsInTheHeadWhatComesLaterButDoesNotNeedTheFeatures) {
  const ScriptCut c = cut("def forward(self, x):\n  m = self.layer.forward(x)\n  return m + torch.exp(2 * x)\n");
  EXPECT_EQ(c.crossing, 1);
  EXPECT_TRUE(close(run_head(c, x).at(1).toTensor(), torch::exp(2 * x)));
  EXPECT_TRUE(close(run_tail(c, {0 * x, 5 * x}, x), 5 * x));
}

TEST_F(Cut, KeepsTheOrderOfWhatComesLaterWhereAnythingWrites) {
  const ScriptCut c = cut(R"(
def forward(self, x):
  m = self.layer.forward(x)
  n = m.mul_(3)
  return m + torch.exp(2 * x)
)");
  EXPECT_EQ(c.crossing, 0);
  EXPECT_TRUE(close(run_tail(c, {x.clone()}, x), 3 * x + torch::exp(2 * x)));
}

TEST_F(Cut, HandsOnWhatOnlyABranchBehindTheLayerReads) {
  const ScriptCut c = cut(R"(
def forward(self, x):
  h = torch.sin(x)
  m = self.layer.forward(h)
  if bool(m.sum() > 0):
    m = m + h
  return m
)");
  EXPECT_EQ(c.crossing, 1);
  const at::Tensor ones = torch::ones_like(x);
  EXPECT_TRUE(close(run_tail(c, {ones, 7 * x}, x), ones + 7 * x));
  EXPECT_TRUE(close(run_tail(c, {-ones, 7 * x}, x), -ones));
}

TEST_F(Cut, TellsWhichWeightsTheHeadReads) {
  const auto module = with_layer(skip);
  const ScriptCut c = cut(module);
  ASSERT_EQ(c.lifted.size(), 2);
  EXPECT_TRUE(lifted(c, "w").is_in_head);
  EXPECT_FALSE(lifted(c, "v").is_in_head);
  EXPECT_TRUE(lifted(c, "v").get().is_same(module.attr("v").toTensor()));
}

TEST_F(Cut, TellsAWeightOfConvolutionsFromOneThatIsReadElsewhereToo) {
  torch::jit::Module layer("Layer"), module("Convolutions");
  layer.define(plain_layer);
  module.register_module("layer", layer);
  for (const char* const name : {"kernel", "both"}) module.register_buffer(name, torch::randn({2, 2, 3, 3}, f64));
  module.define(
      "def forward(self, x):\n"
      "  return self.layer.forward(torch.conv2d(x, self.kernel)) + torch.conv2d(x, self.both) + self.both.sum()\n");
  const ScriptCut c = cut(module);
  EXPECT_TRUE(lifted(c, "kernel").is_convolution_weight);
  EXPECT_FALSE(lifted(c, "both").is_convolution_weight);
}

TEST_F(Cut, CountsTrainingFlagsAsTheyAreUnlessInEvalMode) {
  const auto module = with_layer(R"(
def forward(self, x):
  if self.training:
    x = 10 * x
  return self.layer.forward(x)
)");
  EXPECT_TRUE(close(run_head(cut(module, /*in_eval_mode=*/false), x).at(0).toTensor(), torch::tanh(10 * x)));
  EXPECT_TRUE(close(run_head(cut(module, /*in_eval_mode=*/true), x).at(0).toTensor(), torch::tanh(x)));
  const auto whole = [&](bool in_eval_mode) {
    return run(cut(module, in_eval_mode).whole, {module._ivalue(), x}).at(0).toTensor();
  };
  EXPECT_TRUE(close(whole(false), torch::tanh(10 * x)));
  EXPECT_TRUE(close(whole(true), torch::tanh(x)));
}

TEST_F(Cut, TellsWhetherItDrawsRandomNumbers) {
  const auto dropout =
      with_layer("def forward(self, x):\n  return self.layer.forward(torch.dropout(x, 0.5, self.training))\n");
  EXPECT_TRUE(cut(dropout, /*in_eval_mode=*/false).draws_random_numbers);
  const std::string may_draw = "what comes before the layer may draw random numbers, as torch says of ";
  EXPECT_EQ(cut(dropout, /*in_eval_mode=*/false).why_head_may_differ, may_draw + "dropout");
  EXPECT_EQ(cut(dropout, /*in_eval_mode=*/true).why_head_may_differ, "");
  const ScriptCut before = cut(R"(
def forward(self, x):
  if bool(x.sum() > 0):
    x = x * torch.rand_like(x)
  return self.layer.forward(x)
)");
  EXPECT_EQ(before.why_head_may_differ, may_draw + "rand_like");
  const ScriptCut noise = cut("def forward(self, x):\n  return self.layer.forward(x) + torch.rand_like(x)\n");
  EXPECT_TRUE(noise.draws_random_numbers);
  const ScriptCut branch = cut(R"(
def forward(self, x):
  m = self.layer.forward(x)
  if bool(m.sum() > 0):
    m = m * torch.rand_like(x)
  return m
)");
  EXPECT_TRUE(branch.draws_random_numbers);
  EXPECT_EQ(branch.why_head_may_differ, "");
  EXPECT_FALSE(cut(skip).draws_random_numbers);
  EXPECT_EQ(cut(skip).why_head_may_differ, "");
}

TEST_F(Cut, KnowsThatAttentionWithoutDropoutIsNotRandom) {
  for (const char* const probability : {"0.0", "0.1"}) {
    const ScriptCut c =
        cut(c10::str(
            "def forward(self, x):\n  q = x.unsqueeze(0)\n"
            "  return self.layer.forward(torch.scaled_dot_product_attention(q, q, q, None, ",
            probability, "))\n"));
    EXPECT_EQ(c.draws_random_numbers, std::string(probability) != "0.0");
  }
}

const std::string counts = "def forward(self, x):\n  self.calls.add_(1)\n  return self.layer.forward(x * self.calls)\n";

const std::string writes = "forward() writes to its inputs, buffers or parameters in eval mode";

TEST_F(Cut, RepeatsAHeadThatChangesTheModule) {
  const ScriptCut c = cut(counts);
  EXPECT_TRUE(lifted(c, "calls").is_written);
  EXPECT_TRUE(c.repeats_head);
  EXPECT_EQ(c.why_head_may_differ, writes);
  EXPECT_FALSE(c.writes_inputs);
  EXPECT_FALSE(cut(with_layer(counts), /*in_eval_mode=*/false).repeats_head);  // training counts one pass a step
}

TEST_F(Cut, DoesNotRepeatTheHeadForWhatTheTailChanges) {
  const ScriptCut c =
      cut("def forward(self, x):\n  m = self.layer.forward(x)\n  self.calls.add_(1)\n  return m * self.calls\n");
  EXPECT_TRUE(lifted(c, "calls").is_written);
  EXPECT_FALSE(c.repeats_head);
  EXPECT_EQ(c.why_head_may_differ, writes);
}

TEST_F(Cut, SeesThatBatchNormalizationInTrainingWritesItsStatistics) {
  const auto module = with_layer(R"(
def forward(self, x):
  h = torch.batch_norm(x, None, None, self.mean, self.var, self.training, 0.1, 1e-5, False)
  return self.layer.forward(h).matmul(self.w)
)");
  const ScriptCut training = cut(module, /*in_eval_mode=*/false), eval = cut(module, /*in_eval_mode=*/true);
  for (const char* const name : {"mean", "var"}) {
    EXPECT_TRUE(lifted(training, name).is_written) << name;
    EXPECT_FALSE(lifted(eval, name).is_written) << name;
  }
  EXPECT_FALSE(lifted(training, "w").is_written);
}

TEST_F(Cut, NormalizesAsItIsTold) {
  const auto module = with_layer(R"(
def forward(self, x):
  h = torch.batch_norm(x, None, None, self.mean, self.var, self.training, 0.1, 1e-5, False)
  return self.layer.forward(h)
)");
  const at::Tensor by_running = (x - 0.1) / std::sqrt(2.0 + 1e-5);
  const at::Tensor by_batch = (x - x.mean(0)) / torch::sqrt(x.var(0, /*unbiased=*/false) + 1e-5);
  const auto whole = [&](const ScriptCut& c) { return run(c.whole, {module._ivalue(), x}).at(0).toTensor(); };
  const ScriptCut running = cut(module), batch = cut(module, true, {NormStatistics::batch});
  EXPECT_TRUE(close(run_head(running, x).at(0).toTensor(), torch::tanh(by_running)));
  EXPECT_TRUE(close(whole(running), torch::tanh(by_running)));
  EXPECT_TRUE(close(run_head(batch, x).at(0).toTensor(), torch::tanh(by_batch)));
  EXPECT_TRUE(close(whole(batch), torch::tanh(by_batch)));
}

TEST_F(Cut, RunsWithWeightsOfEachSample) {
  const auto module = with_layer("def forward(self, x):\n  return self.layer.forward(torch.linear(x, self.w))\n");
  const ScriptCut c = cut_script(module, {"layer", {}, {}}, true, {}, /*per_sample=*/true);
  const at::Tensor samples = torch::randn({5, 3, 4}, f64), weights = torch::randn({5, 2, 4}, f64);
  at::Tensor features;
  {
    const detail::Vmap vmap(5);
    const Stack handed = run(c.head, {detail::Vmap::wrap(samples), detail::Vmap::wrap(weights)});
    features = detail::Vmap::unwrap(handed.at(0).toTensor());
  }
  EXPECT_TRUE(close(features, torch::tanh(torch::bmm(samples, weights.transpose(1, 2)))));
  EXPECT_TRUE(close(run_head(c, x).at(0).toTensor(), torch::tanh(torch::linear(x, module.attr("w").toTensor()))));
  // Layers of their own are faster, which results do not tell.
  const auto has_own_layers = [](const ScriptCut& of) {
    const auto& nodes = of.head.instructions_source();
    return std::any_of(nodes.begin(), nodes.end(), [](const auto* node) {
      return node->kind() == c10::Symbol::fromQualString("it3::linear");
    });
  };
  EXPECT_TRUE(has_own_layers(c));
  EXPECT_FALSE(has_own_layers(cut(module)));
}

TEST_F(Cut, TellsWhatTheTailWritesTo) {
  // Of (features, what crosses, x).
  const auto written = [](const std::string& tail) {
    const ScriptCut c =
        cut("def forward(self, x):\n  h = torch.sin(x)\n  m = self.layer.forward(h)\n" + tail + "  return m + h + x\n");
    return std::make_pair(c.written_in_tail, c.writes_inputs);
  };
  using Written = std::pair<std::vector<bool>, bool>;
  EXPECT_EQ(written(""), Written({false, false, false}, false));
  EXPECT_EQ(written("  n = m.mul_(2)\n"), Written({true, false, false}, false));
  EXPECT_EQ(written("  n = h.mul_(2)\n"), Written({false, true, false}, false));
  EXPECT_EQ(written("  n = x.mul_(2)\n"), Written({false, false, true}, true));
  EXPECT_EQ(written("  n = m[0].mul_(2)\n"), Written({true, false, false}, false));
}

TEST_F(Cut, TellsThatTheHeadWritesToItsInputs) {
  const ScriptCut c = cut("def forward(self, x):\n  return self.layer.forward(x.mul_(2))\n");
  EXPECT_TRUE(c.writes_inputs);
  EXPECT_EQ(c.why_head_may_differ, writes);
  EXPECT_EQ(c.written_in_tail, (std::vector<bool>{false, false}));
}

TEST_F(Cut, IsCurrentUntilAnAttributeThatItReadChanges) {
  auto module = with_layer(R"(
def forward(self, x):
  return self.layer.forward(x.matmul(self.w)).view(-1, self.sizes[0], self.sizes[1]) * self.scale
)");
  const ScriptCut c = cut(module);
  EXPECT_TRUE(c.is_current());
  module.attr("w").toTensor().zero_();
  module.setattr("training", false);  // read nowhere
  EXPECT_TRUE(c.is_current());
  module.setattr("scale", 2.0);
  EXPECT_FALSE(c.is_current());
  module.setattr("scale", 1.0);
  EXPECT_TRUE(c.is_current());
  module.attr("sizes").toIntList().set(0, 4);  // in the list that the module keeps
  EXPECT_FALSE(c.is_current());
}

TEST_F(Cut, HasANumberThatNoOtherHas) {
  const auto module = with_layer(skip);
  EXPECT_NE(cut(module).id, cut(module).id);
}

TEST_F(Cut, IsRefusedWithAReason) {
  const auto reason = [](const std::string& forward) { return error_of([&] { cut(forward); }); };
  const std::string start = "the TorchScript module cannot be cut at the layer 'layer': ";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"def forward(self, x):\n  return x\n", "forward() does not call the layer. "},
      {"def forward(self, x):\n  return self.layer.forward(self.layer.forward(x))\n",
       "forward() calls the layer 2 times. "},
      {"def forward(self, x):\n  if bool(x.sum() > 0):\n    x = self.layer.forward(x)\n  return x\n",
       "the layer is called inside a branch or a loop. "},
      {"def forward(self, x):\n  self.scale = 2.0\n  return self.layer.forward(x)\n",
       "forward() assigns attributes of the module. "},
      {"def forward(self, x):\n  m = self.layer.forward(x)\n  return x\n",
       "the prediction does not depend on the layer's output. "}};
  for (const auto& [forward, why] : cases) EXPECT_EQ(reason(forward).find(start + why), 0) << reason(forward);
}

}  // namespace
}  // namespace it3::test
