#include <filesystem>
#include <fstream>

#include <torch/csrc/jit/serialization/import.h>

#include "network_fixture.h"
#include "temporary_folder.h"

namespace it3::test {
namespace {

torch::jit::Module network() {
  torch::manual_seed(0);
  torch::jit::Module layer("Layer");
  layer.register_parameter("weight", torch::randn({5, 8}).requires_grad_(), /*is_buffer=*/false);
  layer.define("def forward(self, x):\n  return x.matmul(self.weight)\n");
  torch::jit::Module module("Network");
  module.register_module("layer", layer);
  module.register_parameter("head", torch::randn({8, 3}).requires_grad_(), /*is_buffer=*/false);
  module.define("def forward(self, x):\n  return self.layer.forward(x).tanh().matmul(self.head)\n");
  return module;
}

class SavedEngine : public testing::Test {
 protected:
  std::string file(const char* name) const { return folder.file(name); }

  const TemporaryFolder folder;
  at::Tensor x = torch::randn({6, 5});
};

TEST_F(SavedEngine, EqualsTheOneThatWasSaved) {
  const Options options{
      .optimizer_name = OptimizerKind::sgd,
      .num_steps = 2,
      .lr = 0.1,
      .momentum = 0.5,
      .max_grad_norm = 3,
      .parameters = {"layer", "head"}};
  Engine engine(
      std::make_shared<ScriptNetwork>(network(), "layer"), options, Embedder(), nullptr, distance_by_name("js"));
  const auto expected = engine.adapt(x);
  engine.save(file("engine.pt"), x);
  Engine loaded = Engine::load(file("engine.pt"));
  const auto actual = loaded.adapt(x);
  EXPECT_TRUE(torch::equal(actual.prediction, expected.prediction));
  EXPECT_TRUE(torch::equal(actual.losses, expected.losses));
  EXPECT_TRUE(torch::equal(loaded.uncertainty(x), engine.uncertainty(x)));
  EXPECT_EQ(loaded.options.values(), engine.options.values());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path), {}), 1);
  // As an ordinary module it gives the plain prediction.
  EXPECT_TRUE(
      torch::equal(torch::jit::load(file("engine.pt")).forward({x}).toTensor(), network().forward({x}).toTensor()));
}

TEST_F(SavedEngine, KeepsTheNeutralSignalAndEveryOption) {
  Options options;
  options.anchor = AnchorKind::ema;
  options.ema_decay = 0.5;
  options.norm_statistics = NormStatistics::blend;
  options.norm_prior = 4;
  options.prediction = PredictionKind::mean;
  options.tolerance = 0.1;
  options.patience = 2;
  options.threshold = 0.01;
  options.restore_probability = 0.1;
  options.recovery_factor = 3;
  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"), options);
  engine.set_neutral(torch::tensor({7., 8., 9.}));
  engine.save(file("engine.pt"), x);
  Engine loaded = Engine::load(file("engine.pt"));
  EXPECT_EQ(loaded.options.values(), options.values());
  EXPECT_TRUE(torch::equal(std::get<at::Tensor>(loaded.neutral()), std::get<at::Tensor>(engine.neutral())));
  engine.options = loaded.options = {.anchor = AnchorKind::frozen};
  const auto expected = engine.adapt(x);
  EXPECT_TRUE(torch::equal(loaded.adapt(x).prediction, expected.prediction));
  EXPECT_THROW(engine.save_adapted(expected, file("adapted.pt")), c10::ValueError);
  engine.set_neutral({});
  EXPECT_FALSE(torch::allclose(engine.adapt(x).prediction, expected.prediction));
}

TEST_F(SavedEngine, KeepsHowTheNeutralSignalIsDrawn) {
  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  engine.set_neutral(RandomOneHot());
  engine.save(file("drawn.pt"), x);
  EXPECT_TRUE(std::holds_alternative<RandomOneHot>(Engine::load(file("drawn.pt")).neutral()));
  engine.set_neutral(DrawnLabels{torch::tensor({2, 0})});
  engine.save(file("labels.pt"), x);
  const auto labels = std::get<DrawnLabels>(Engine::load(file("labels.pt")).neutral()).labels;
  EXPECT_TRUE(torch::equal(labels, torch::tensor({2, 0})));
  engine.set_neutral(NeutralFunction([](const at::Tensor& prediction) { return prediction; }));
  EXPECT_THROW(engine.save(file("function.pt"), x), c10::ValueError);
}

torch::jit::Module function(const char* source) {
  torch::jit::Module module("Function");
  module.define(source);
  return module;
}

TEST_F(SavedEngine, KeepsFunctionsThatAreTorchScript) {
  torch::jit::Module embedder("Embedder");
  embedder.register_parameter("weight", torch::randn({3, 8}).requires_grad_(), /*is_buffer=*/false);
  embedder.define("def forward(self, y):\n  return y.matmul(self.weight)\n");
  Engine engine(
      std::make_shared<ScriptNetwork>(network(), "layer"), Options{.num_steps = 2}, ScriptFunction(embedder),
      ScriptFunction(function("def forward(self, f, e):\n  return f * e.sigmoid()\n")),
      Distance(ScriptFunction(function("def forward(self, a, b):\n  return (a - b).abs().mean()\n"))));
  // Independently: the same functions in C++.
  const at::Tensor weight = embedder.attr("weight").toTensor();
  Engine expected(
      std::make_shared<ScriptNetwork>(network(), "layer"), Options{.num_steps = 2},
      [&](const at::Tensor& y, const at::Tensor&) { return y.matmul(weight); },
      [](const at::Tensor& f, const at::Tensor& e) { return f * e.sigmoid(); }, distance_by_name("l1"));
  engine.save(file("engine.pt"), x);
  Engine loaded = Engine::load(file("engine.pt"));
  EXPECT_TRUE(torch::equal(loaded.adapt(x).prediction, expected.adapt(x).prediction));
  EXPECT_TRUE(torch::equal(loaded.uncertainty(x), expected.uncertainty(x)));
  loaded.save(file("again.pt"), x);
  EXPECT_TRUE(torch::equal(Engine::load(file("again.pt")).adapt(x).prediction, expected.adapt(x).prediction));
  EXPECT_THROW(ScriptFunction(function("def forward(self, a, b, c):\n  return a + b + c\n")), c10::ValueError);
}

TEST_F(SavedEngine, NotesWhatItWasCalledWith) {
  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  engine.save(file("engine.pt"), x);
  const Notes notes = load_engine(file("engine.pt")).notes;
  EXPECT_EQ(notes.model, "Network");
  EXPECT_EQ(notes.inputs, std::vector<std::string>{"Float [6, 5]"});
  EXPECT_EQ(notes.prediction, "Float [6, 3]");
  EXPECT_EQ(notes.features, "Float [6, 8]");
}

TEST_F(SavedEngine, WritesTheAdaptedNetworkAsPlainTorchScript) {
  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  const Adaptation adaptation = engine.adapt(x, /*with_details=*/true);
  engine.save_adapted(adaptation, file("adapted.pt"));
  EXPECT_TRUE(
      torch::equal(torch::jit::load(file("adapted.pt")).forward({x}).toTensor().detach(), adaptation.prediction));
  EXPECT_FALSE(torch::equal(network().forward({x}).toTensor(), adaptation.prediction));
  Engine module_engine(Problem().network);
  EXPECT_THROW(module_engine.save_adapted(adaptation, file("adapted.pt")), c10::ValueError);
}

TEST_F(SavedEngine, SaysWhatCannotBeSaved) {
  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  EXPECT_THROW(engine.save(file("no_such_folder/engine.pt"), x), std::exception);
  Engine custom(
      std::make_shared<ScriptNetwork>(network(), "layer"), {}, Embedder(), nullptr,
      Distance([](const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().mean(); }));
  EXPECT_THROW(custom.save(file("engine.pt"), x), c10::ValueError);
  Engine module_engine(Problem().network);
  EXPECT_THROW(module_engine.save(file("engine.pt"), x), c10::ValueError);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
}

TEST_F(SavedEngine, OtherFilesAreOneClearError) {
  const auto message_of = [&](const char* name) {
    try {
      Engine::load(file(name));
    } catch (const c10::Error& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string("loaded");
  };
  EXPECT_NE(message_of("missing.pt").find("there is no file"), std::string::npos);
  network().save(file("plain.pt"));
  EXPECT_NE(message_of("plain.pt").find("holds no engine"), std::string::npos);
  std::ofstream(file("text.pt")) << "not an archive";
  EXPECT_NE(message_of("text.pt").find("cannot be read as an engine: it has no directory"), std::string::npos);

  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  engine.save(file("engine.pt"), x);
  for (const auto part : {0.2, 0.5, 0.9, 0.99}) {
    std::filesystem::copy_file(file("engine.pt"), file("cut.pt"), std::filesystem::copy_options::overwrite_existing);
    const auto size = static_cast<double>(std::filesystem::file_size(file("engine.pt")));
    std::filesystem::resize_file(file("cut.pt"), static_cast<std::uintmax_t>(part * size));
    EXPECT_NE(message_of("cut.pt").find("cut.pt cannot be read as an engine: it"), std::string::npos)
        << message_of("cut.pt");
  }
}

}  // namespace
}  // namespace it3::test
