#include <filesystem>
#include <fstream>

#include <ATen/core/Dict.h>

#include "files/new_file.h"
#include "files/saved_module.h"
#include "network_fixture.h"
#include "temporary_folder.h"

namespace it3::test {
namespace {

torch::jit::Module with_layer(const std::string& layer, const std::string& forward) {
  torch::jit::Module inner("Layer");
  inner.define(layer);
  torch::jit::Module module("Net");
  module.register_module("layer", inner);
  module.register_parameter("w", (torch::randn({4, 4}, f64) / 2).requires_grad_(), /*is_buffer=*/false);
  module.register_attribute("training", c10::BoolType::get(), true);
  module.register_attribute("scale", c10::FloatType::get(), 1.0);
  module.define(forward);
  return module;
}

const std::string plain_layer = "def forward(self, x):\n  return torch.tanh(x)\n";

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

struct Outputs : testing::Test {
  Outputs() { torch::manual_seed(0); }
  at::Tensor x = torch::randn({3, 4}, f64);
  Inject doubled{[](const at::Tensor& features) { return 2 * features; }};
};

TEST_F(Outputs, OfTheModuleAreFoundByPath) {
  const std::string tuple = R"(
def forward(self, x):
  h = self.layer.forward(x.matmul(self.w))
  return x, {"loss": h.sum(), "logits": h.matmul(self.w)}, [h, x + h], (1.0, h * 3)
)";
  const auto module = with_layer(plain_layer, tuple);
  const at::Tensor w = module.attr("w").toTensor(), h = torch::tanh(x.matmul(w));
  const std::vector<std::pair<std::string, at::Tensor>> expected = {
      {"1.logits", h.matmul(w)}, {"2.0", h}, {"2.-1", x + h}, {"-1.1", 3 * h}, {"1.loss", h.sum()}};
  for (const auto& [path, tensor] : expected) {
    ScriptNetwork network(module, "layer", parse_output_path(path));
    const auto copy = network.checkout(network.parameters());
    EXPECT_TRUE(close(copy->predict(x).prediction, tensor)) << path;
  }
  ScriptNetwork several(module, "layer");
  const std::string why = error_of([&] { several.checkout({})->predict(x); });
  EXPECT_NE(why.find("the model's output holds 6 tensors; say which one is meant by output"), std::string::npos) << why;
  EXPECT_NE(why.find("1.logits of shape (3, 4)"), std::string::npos) << why;
  ScriptNetwork wrong(module, "layer", parse_output_path("1.logit"));
  EXPECT_NE(error_of([&] { wrong.checkout({})->predict(x); }).find("output is '1.logit'"), std::string::npos);
}

TEST_F(Outputs, ThatDoNotDependOnTheLayerAreRefused) {
  const auto tuple = with_layer(plain_layer, R"(
def forward(self, x):
  return self.layer.forward(x.matmul(self.w)), x.matmul(self.w)
)");
  EXPECT_NE(
      error_of([&] {
        ScriptNetwork(tuple, "layer", parse_output_path("1"));
      }).find("does not depend on the layer's output"),
      std::string::npos);
  const auto dict = with_layer(plain_layer, R"(
def forward(self, x):
  return {"a": self.layer.forward(x.matmul(self.w)), "b": x.matmul(self.w)}
)");
  ScriptNetwork network(dict, "layer", parse_output_path("b"));
  EXPECT_NE(
      error_of([&] { network.checkout({})->predict(x); }).find("no gradient flows from the prediction"),
      std::string::npos);
}

TEST_F(Outputs, OfTheLayerAreFoundByPath) {
  struct Case {
    std::string layer, use, path;
  };
  const std::vector<Case> cases = {
      {"def forward(self, x):\n  return x, (torch.tanh(x), x)\n", "out[1][0] + 0 * out[0]", "1.0"},
      {"def forward(self, x):\n  return [x, torch.tanh(x)]\n", "out[1] + 0 * out[0]", "1"},
      {"def forward(self, x):\n  return [x, torch.tanh(x)]\n", "out[-1]", "-1"},
      {"def forward(self, x):\n  return {'a': x, 'b': torch.tanh(x)}\n", "out['b'] + 0 * out['a']", "b"},
      {"def forward(self, x):\n  return [(x, torch.tanh(x))]\n", "out[0][1]", "0.1"}};
  for (const auto& [layer, use, path] : cases) {
    const auto module = with_layer(
        layer,
        "def forward(self, x):\n  out = self.layer.forward(x.matmul(self.w))\n  return (" + use + ").matmul(self.w)\n");
    const at::Tensor w = module.attr("w").toTensor(), h = torch::tanh(x.matmul(w));
    ScriptNetwork network(module, "layer", std::nullopt, parse_output_path(path));
    const auto copy = network.checkout(network.parameters());
    const FirstPass first = copy->predict(x);
    EXPECT_TRUE(close(first.prediction, h.matmul(w))) << use;
    EXPECT_TRUE(close(copy->resume(x, first, &doubled), (2 * h).matmul(w))) << use;
  }
  const auto module = with_layer(cases[0].layer, "def forward(self, x):\n  return self.layer.forward(x)[1][0]\n");
  const std::string why = error_of([&] { ScriptNetwork(module, "layer", std::nullopt, parse_output_path("2")); });
  EXPECT_NE(why.find("layer_output is '2', but the layer returns"), std::string::npos) << why;
  EXPECT_NE(
      error_of([&] { ScriptNetwork(module, "layer"); }).find("does not depend on the layer's output"),
      std::string::npos);
}

TEST_F(Outputs, AdaptationIsInEvalModeAndTrainingAsTheFlagsAre) {
  auto module = with_layer(
      plain_layer,
      "def forward(self, x):\n  return torch.dropout(self.layer.forward(x.matmul(self.w)), 0.5, self.training)\n");
  ScriptNetwork network(module, "layer");
  const at::Tensor h = torch::tanh(x.matmul(module.attr("w").toTensor()));
  EXPECT_TRUE(close(network.checkout({})->predict(x).prediction, h));
  EXPECT_FALSE(close(network.predict(x).prediction, h));
  EXPECT_TRUE(module.attr("training").toBool());
  module.setattr("training", false);
  EXPECT_TRUE(close(network.predict(x).prediction, h));
}

TEST_F(Outputs, AttributesMayChangeBetweenCalls) {
  auto module =
      with_layer(plain_layer, "def forward(self, x):\n  return self.layer.forward(x.matmul(self.w)) / self.scale\n");
  ScriptNetwork network(module, "layer");
  const at::Tensor h = torch::tanh(x.matmul(module.attr("w").toTensor()));
  for (const double scale : {1.0, 4.0, 0.1}) {
    module.setattr("scale", scale);
    EXPECT_TRUE(close(network.checkout({})->predict(x).prediction, h / scale));
    EXPECT_TRUE(close(network.predict(x).prediction, h / scale));
  }
}

TEST_F(Outputs, ErrorsSayWhatWentWrongWithoutTheTraceback) {
  const auto module = with_layer(plain_layer, "def forward(self, x):\n  return self.layer.forward(x.matmul(self.w))\n");
  ScriptNetwork network(module, "layer");
  const std::string why = error_of([&] { network.checkout({})->predict(torch::zeros({3, 5}, f64)); });
  EXPECT_EQ(why.find("Traceback"), std::string::npos) << why;
  EXPECT_EQ(why.find("mat1 and mat2 shapes cannot be multiplied"), 0) << why;
}

TEST_F(Outputs, NamesThatAFileDoesNotHoldAreRefused) {
  const TemporaryFolder folder;
  const std::string path = folder.file("names.pt");
  std::ofstream(path) << "as before";
  auto module = with_layer(plain_layer, "def forward(self, x):\n  return self.layer.forward(x.matmul(self.w))\n");
  module.register_buffer("class", torch::zeros({2}));
  const std::string why = error_of([&] {
    detail::NewFile file(path);
    detail::save_module(module, file);
  });
  EXPECT_NE(why.find("does not hold the name 'class'"), std::string::npos) << why;
  std::string content;
  std::getline(std::ifstream(path), content);
  EXPECT_EQ(content, "as before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path), {}), 1);
}

}  // namespace
}  // namespace it3::test
