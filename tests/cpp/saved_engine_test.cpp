#include <filesystem>
#include <fstream>

#include <torch/csrc/jit/serialization/import.h>

#include "network_fixture.h"

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
  void SetUp() override { std::filesystem::create_directories(folder); }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string file(const char* name) const { return (folder / name).string(); }

  std::filesystem::path folder = std::filesystem::path(testing::TempDir()) /
                                 ("it3_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  at::Tensor x = torch::randn({6, 5});
};

TEST_F(SavedEngine, EqualsTheOneThatWasSaved) {
  const Options options{
      .optimizer_name = OptimizerName::sgd,
      .num_steps = 2,
      .lr = 0.1,
      .momentum = 0.5,
      .max_grad_norm = 3,
      .parameters = {"layer", "head"}};
  Engine engine(
      std::make_shared<ScriptNetwork>(network(), "layer"), options, Embedder(), nullptr, distance_by_name("js"));
  const auto expected = engine.adapt(x);
  engine.save(file("engine.pt"));
  Engine loaded = Engine::load(file("engine.pt"));
  const auto actual = loaded.adapt(x);
  EXPECT_TRUE(torch::equal(actual.prediction, expected.prediction));
  EXPECT_TRUE(torch::equal(actual.losses, expected.losses));
  EXPECT_TRUE(torch::equal(loaded.uncertainty(x), engine.uncertainty(x)));
  EXPECT_EQ(loaded.options.values(), engine.options.values());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  // As an ordinary module it gives the plain prediction.
  EXPECT_TRUE(
      torch::equal(torch::jit::load(file("engine.pt")).forward({x}).toTensor(), network().forward({x}).toTensor()));
}

TEST_F(SavedEngine, SaysWhatCannotBeSaved) {
  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  EXPECT_THROW(engine.save(file("engine.pt")), c10::ValueError);
  engine.uncertainty(x);
  EXPECT_THROW(engine.save(file("no_such_folder/engine.pt")), std::exception);
  Engine custom(
      std::make_shared<ScriptNetwork>(network(), "layer"), {}, Embedder(), nullptr,
      Distance([](const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().mean(); }));
  custom.uncertainty(x);
  EXPECT_THROW(custom.save(file("engine.pt")), c10::ValueError);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
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
  EXPECT_NE(message_of("text.pt").find("is not a TorchScript archive"), std::string::npos);

  Engine engine(std::make_shared<ScriptNetwork>(network(), "layer"));
  engine.uncertainty(x);
  engine.save(file("engine.pt"));
  for (const auto part : {0.2, 0.5, 0.9, 0.99}) {
    std::filesystem::copy_file(file("engine.pt"), file("cut.pt"), std::filesystem::copy_options::overwrite_existing);
    const auto size = static_cast<double>(std::filesystem::file_size(file("engine.pt")));
    std::filesystem::resize_file(file("cut.pt"), static_cast<std::uintmax_t>(part * size));
    EXPECT_NE(message_of("cut.pt").find("is damaged"), std::string::npos) << part;
  }
}

}  // namespace
}  // namespace it3::test
