#include <it3/backend/engine_state.h>

#include <fstream>

#include "error_of.h"
#include "network_fixture.h"
#include "temporary_folder.h"

namespace it3::test {
namespace {

using torch::nn::BatchNorm1d;
using torch::nn::Linear;
using torch::nn::Sequential;
using torch::nn::Tanh;

std::string text_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no c10::Error";
}

struct StateTest : testing::Test {
  StateTest() { torch::manual_seed(0); }

  static Sequential model(int width = 8) {
    Sequential model(
        {{"first", Linear(5, width)}, {"norm", BatchNorm1d(width)}, {"tanh", Tanh()}, {"last", Linear(width, 3)}});
    model->to(f64);
    model->eval();
    return model;
  }
  static Engine engine(const Sequential& model, Embed embed = Embedder()) {
    return Engine(std::make_shared<ModuleNetwork>(model, "first"), {.lr = 0.05, .copy_model = false}, std::move(embed));
  }
  std::string file(const char* name = "state.pt") const { return folder.file(name); }

  const TemporaryFolder folder;
  const at::Tensor x = torch::randn({6, 5}, f64), target = torch::randn({6, 3}, f64);
};

TEST_F(StateTest, AnEngineGoesOnWhereAnotherOneIs) {
  Sequential net = model();
  Engine first = engine(net);
  net->train();
  torch::optim::SGD optimizer(first.parameters(), 0.1);
  for (int step = 0; step < 3; ++step) {
    const Losses losses = first.losses(x, torch::tensor({0, 1, 2, 0, 1, 2}));
    optimizer.zero_grad();
    (losses.prediction.square().mean() + losses.loss_ttt).backward();
    optimizer.step();
  }
  net->eval();
  const at::Tensor start = net->named_parameters()["last.weight"].clone();
  first.adapt(x);
  first.save_state(file());

  const Sequential other = model();
  Engine second = engine(other);
  second.load_state(file());
  EXPECT_TRUE(second.is_trained());
  EXPECT_TRUE(torch::equal(other->named_buffers()["norm.running_var"], net->named_buffers()["norm.running_var"]));
  EXPECT_TRUE(torch::equal(second.embedder()->weights().weight1, first.embedder()->weights().weight1));
  EXPECT_DOUBLE_EQ(second.drift().distance, first.drift().distance);
  for (int call = 0; call < 2; ++call) {  // with the optimizer's moments, and what training taught to feed back
    EXPECT_TRUE(torch::equal(second.adapt(x).prediction, first.adapt(x).prediction));
  }
  second.reset();
  EXPECT_TRUE(torch::equal(other->named_parameters()["last.weight"], start));
}

TEST_F(StateTest, AnEngineAroundTorchScriptToo) {
  const auto script = [] {
    torch::jit::Module module("Net");
    module.register_parameter("weight", torch::randn({3, 3}, torch::requires_grad()), false);
    module.register_parameter("bias", torch::randn({3}, torch::requires_grad()), false);
    torch::jit::Module layer("Layer");
    layer.define("def forward(self, x):\n  return torch.tanh(x)\n");
    module.register_module("layer", layer);
    module.define("def forward(self, x):\n  return torch.matmul(self.layer.forward(x), self.weight) + self.bias\n");
    module.eval();
    return module;
  };
  const at::Tensor inputs = torch::randn({4, 3});
  const auto make = [&](const torch::jit::Module& module) {
    return Engine(std::make_shared<ScriptNetwork>(module, "layer"), {.lr = 0.05, .copy_model = false});
  };
  Engine first = make(script()), second = make(script());
  first.adapt(inputs);
  first.save_state(file());
  second.load_state(file());
  EXPECT_TRUE(torch::equal(second.adapt(inputs).prediction, first.adapt(inputs).prediction));
}

TEST_F(StateTest, AnEmbedderWithoutShapeTakesThatOfTheFile) {
  Engine first = engine(model());
  first.save_state(file());
  Engine built = engine(model());
  built.adapt(x);
  built.load_state(file());
  EXPECT_FALSE(built.embedder()->is_built());
  EXPECT_FALSE(built.is_trained());
  EXPECT_EQ(built.drift().distance, 0);
}

TEST_F(StateTest, RefusesWhatDoesNotFitAndChangesNothing) {
  Engine wide = engine(model(16));
  wide.save_state(file("wide.pt"));
  Engine own = engine(model(), [](const at::Tensor& prediction, const at::Tensor&) {
    return prediction.sum(1, /*keepdim=*/true).expand({-1, 8});
  });
  own.save_state(file("own.pt"));
  const Sequential net = model();
  Engine small = engine(net);
  small.adapt(x);
  const at::Tensor weight = net->named_parameters()["first.weight"].clone();
  const auto expect_refused = [&](const std::string& path, const char* why) {
    const std::string error = text_of([&] { small.load_state(path); });
    EXPECT_NE(error.find(why), std::string::npos) << error;
    EXPECT_TRUE(torch::equal(net->named_parameters()["first.weight"], weight));
    EXPECT_GT(small.drift().distance, 0);
  };
  expect_refused(file("wide.pt"), "of another shape model.first.bias ([16] in the file, [8] in the engine)");
  expect_refused(file("own.pt"), "missing embedder.bias1, embedder.bias2, embedder.weight1, embedder.weight2");
  expect_refused(file("none.pt"), "there is no file ");
  std::ofstream(file("damaged.pt")) << "no state";
  expect_refused(file("damaged.pt"), "damaged.pt' is damaged, or not what Engine::save_state() wrote");
  const std::string bytes = [&] {
    std::ifstream stream(file("wide.pt"), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  }();
  std::ofstream(file("short.pt"), std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  expect_refused(file("short.pt"), "short.pt' is damaged");
  EXPECT_NE(text_of([&] { small.save_state(file("no/folder.pt")); }).find("cannot write '"), std::string::npos);
}

}  // namespace
}  // namespace it3::test
