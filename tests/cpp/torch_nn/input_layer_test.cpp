#include "error_of.h"
#include "network_fixture.h"
#include "temporary_folder.h"

namespace it3::test {
namespace {

constexpr int few_steps = 3;
constexpr double rate = 1e-2;

at::Tensor concatenated(const at::Tensor& x, const at::Tensor& y) { return torch::cat({x, y}, 1); }

/// A perceptron of 4 + 2 columns, by its weights, and what adapting it by the formula gives.
struct Concatenating {
  at::Tensor w1 = torch::randn({6, 8}, f64), w2 = torch::randn({8, 2}, f64);
  at::Tensor x = torch::randn({5, 4}, f64), nothing = torch::zeros({5, 2}, f64);

  at::Tensor expected() const {
    std::vector<at::Tensor> weights = {w1.clone().requires_grad_(), w2.clone().requires_grad_()};
    const auto predict = [&](const at::Tensor& y) {
      return torch::tanh(concatenated(x, y).matmul(weights[0])).matmul(weights[1]);
    };
    torch::optim::Adam optimizer(weights, torch::optim::AdamOptions(rate));
    for (int i = 0; i < few_steps; ++i) {
      const auto y0 = predict(nothing);
      optimizer.zero_grad();
      torch::mse_loss(predict(y0), y0).backward();
      optimizer.step();
    }
    const torch::NoGradGuard no_grad;
    return predict(nothing);
  }

  torch::jit::Module script() const {
    torch::jit::Module module("Network");
    module.register_parameter("w1", w1.clone().requires_grad_(), /*is_buffer=*/false);
    module.register_parameter("w2", w2.clone().requires_grad_(), /*is_buffer=*/false);
    module.define(
        "def forward(self, x: Tensor, scale: float = 1.0, *, shift: Optional[float] = None):\n"
        "  return x.matmul(self.w1).tanh().matmul(self.w2) * scale\n");
    return module;
  }

  torch::nn::Sequential sequential() const {
    torch::nn::Sequential model;
    model->push_back("input", InputLayer(2));
    model->push_back("first", torch::nn::Linear(torch::nn::LinearOptions(6, 8).bias(false)));
    model->push_back("tanh", torch::nn::Tanh());
    model->push_back("last", torch::nn::Linear(torch::nn::LinearOptions(8, 2).bias(false)));
    model->to(torch::kDouble);
    const torch::NoGradGuard no_grad;
    model->parameters()[0].copy_(w1.t());
    model->parameters()[1].copy_(w2.t());
    return model;
  }
};

const Options adam{.num_steps = few_steps, .lr = rate};

TEST(InputLayer, ConcatenatesInASequential) {
  const Concatenating problem;
  Engine engine(std::make_shared<ModuleNetwork>(problem.sequential(), "input"), adam, Embedder(Layout{}, Layout{}, 2));
  EXPECT_TRUE(close(engine.adapt(problem.x).prediction, problem.expected()));
  EXPECT_FALSE(engine.is_trained());
}

TEST(InputLayer, ConcatenatesBeforeTorchScriptAndInFiles) {
  const Concatenating problem;
  const auto module = with_input_layer(problem.script(), 2);
  Engine engine(std::make_shared<ScriptNetwork>(module, "input"), adam, Embedder(Layout{}, Layout{}, 2));
  EXPECT_TRUE(close(engine.adapt(problem.x).prediction, problem.expected()));
  const TemporaryFolder folder;
  engine.save(folder.file("engine.pt"), problem.x);
  Engine read = Engine::load(folder.file("engine.pt"));
  EXPECT_TRUE(close(read.adapt(problem.x).prediction, problem.expected()));
  EXPECT_TRUE(read.embedder()->parameters().empty());
  // Other arguments come through.
  const auto twice = module.get_method("forward")({problem.x, 2.0}).toTensor();
  const auto once = problem.script().get_method("forward")({concatenated(problem.x, problem.nothing)}).toTensor();
  EXPECT_TRUE(close(twice, 2 * once));
}

TEST(InputLayer, RefusesWhatItCannotTake) {
  const Concatenating problem;
  EXPECT_NE(error_of([&] { with_input_layer(problem.script(), -1); }).find("extra_channels"), std::string::npos);
  const std::string error = error_of([&] { with_input_layer(problem.script(), 1, 1, 1); });
  EXPECT_NE(error.find("x: Tensor, scale: float = 1."), std::string::npos) << error;
  EXPECT_NE(error.find("*, shift: Optional[float] = None"), std::string::npos) << error;
  EXPECT_THROW(InputLayer(-1), c10::ValueError);
  EXPECT_THROW(InputLayer(1)->forward(torch::zeros({3})), c10::ValueError);
  EXPECT_THROW(InputLayer(1)->forward(torch::zeros({3, 2}, torch::kLong)), c10::ValueError);
}

TEST(Embedder, WithoutWeightsPutsThePredictionInTheLastChannels) {
  Embedder embedder(Layout{}, Layout{}, /*extra_channels=*/3);
  EXPECT_TRUE(embedder->is_built());
  const auto y = torch::randn({2, 3}, f64);
  const auto embedding = embedder->forward(y, torch::zeros({2, 5}, f64));
  EXPECT_TRUE(torch::equal(embedding, torch::cat({torch::zeros({2, 2}, f64), y}, 1)));
  EXPECT_THROW(embedder->forward(y, torch::zeros({2, 3}, f64)), c10::ValueError);
  EXPECT_THROW(embedder->forward(y.narrow(1, 0, 2), torch::zeros({2, 5}, f64)), c10::ValueError);
  EXPECT_THROW(embedder->forward(y, torch::zeros({2, 5}, torch::kLong)), c10::ValueError);
  EXPECT_THROW(Embedder(Layout{}, Layout{}, -1), c10::ValueError);
}

}  // namespace
}  // namespace it3::test
