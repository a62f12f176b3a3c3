#include <thread>

#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>
#include <torch/library.h>

#include "network_fixture.h"

namespace it3::test {
namespace {

/// Code calls the operator it3_test::out_of_memory as hungry().
struct KnowsHungry : torch::jit::Resolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(
      const std::string& name, torch::jit::GraphFunction& method, const torch::jit::SourceRange& place) override {
    if (name != "hungry") return torch::jit::nativeResolver()->resolveValue(name, method, place);
    const auto symbol = c10::Symbol::fromQualString("it3_test::out_of_memory");
    return std::make_shared<torch::jit::BuiltinFunction>(symbol, std::nullopt);
  }
};

TORCH_LIBRARY(it3_test, library) {
  library.def("out_of_memory(Tensor x) -> Tensor", [](const at::Tensor& x) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate 2.00 GiB.");
    return x;
  });
}

torch::jit::Module linear(std::int64_t inputs, std::int64_t outputs) {
  torch::jit::Module module("Linear");
  module.register_parameter("weight", (torch::randn({outputs, inputs}, f64) / 2).requires_grad_(), /*is_buffer=*/false);
  module.register_parameter("bias", torch::randn({outputs}, f64).requires_grad_(), /*is_buffer=*/false);
  module.define("def forward(self, x):\n  return x.matmul(self.weight.t()) + self.bias\n");
  return module;
}

/// With a skip connection across the layer, an in-place operation behind it and a buffer that every call changes.
torch::jit::Module residual() {
  torch::jit::Module module("Residual");
  module.register_attribute("training", c10::BoolType::get(), false);
  module.register_module("first", linear(5, 8));
  module.register_module("middle", linear(8, 8));
  module.register_module("last", linear(8, 3));
  module.register_buffer("calls", torch::zeros({}, f64));
  module.define(R"(
def forward(self, x, scale: float = 1.0):
  self.calls.add_(1)
  h = torch.tanh(self.first.forward(x))
  m = self.middle.forward(h)
  m.mul_(scale)
  return self.last.forward(torch.tanh(m + h))
)");
  return module;
}

struct ScriptProblem {
  ScriptProblem() {
    torch::manual_seed(0);
    module = residual();
    x = torch::randn({6, 5}, f64);
    embedding = torch::randn({3, 8}, f64);
  }

  at::Tensor weight(const std::string& layer, const std::string& name) const {
    return module.attr(layer).toModule().attr(name).toTensor();
  }

  at::Tensor formula(const std::optional<at::Tensor>& signal) const {
    const auto apply = [&](const std::string& layer, const at::Tensor& t) {
      return torch::linear(t, weight(layer, "weight"), weight(layer, "bias"));
    };
    const auto hidden = torch::tanh(apply("first", x));
    auto middle = apply("middle", hidden);
    if (signal) middle = middle + signal->matmul(embedding);
    return apply("last", torch::tanh(middle + hidden));
  }

  Method method() const {
    return {
        [e = embedding](const at::Tensor& prediction, const at::Tensor&) { return prediction.matmul(e); },
        [](const at::Tensor& features, const at::Tensor& embedded) { return features + embedded; },
        distance_by_name("mse")};
  }

  torch::jit::Module module{"unset"};
  at::Tensor x, embedding;
};

TEST(ScriptNetwork, AdaptsByTheFormulaAndNeverWritesToTheModule) {
  ScriptProblem problem;
  ScriptNetwork network(problem.module, "middle");
  std::vector<at::Tensor> before;
  for (const auto& parameter : problem.module.parameters()) before.push_back(parameter.clone());
  const auto result = adapt(network, problem.method(), {.lr = 1e-2}, problem.x, nullptr, /*with_details=*/true);
  std::vector<at::Tensor> parameters;
  for (const auto& parameter : problem.module.parameters()) {
    EXPECT_TRUE(torch::equal(parameter, before[parameters.size()]));
    EXPECT_EQ(parameter._version(), 0);
    parameters.push_back(parameter);
  }
  EXPECT_EQ(problem.module.attr("calls").toTensor().item<double>(), 0);

  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-2));
  for (int step = 0; step < 3; ++step) {
    const auto y0 = problem.formula({});
    const auto loss = (problem.formula(y0) - y0).square().mean();
    EXPECT_NEAR(result.losses[step].item<double>(), loss.item<double>(), 1e-12);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
  EXPECT_TRUE(close(result.prediction, problem.formula({})));
  EXPECT_TRUE(close(result.second, problem.formula(result.prediction)));
}

TEST(ScriptNetwork, TakesKeywordsAndDefaults) {
  ScriptProblem problem;
  ScriptNetwork network(problem.module, "middle");
  const auto by_position = network.predict(Inputs({problem.x, 2.0})).prediction;
  const auto by_keyword = network.predict(Inputs({}, {{"scale", 2.0}, {"x", problem.x}})).prediction;
  EXPECT_TRUE(torch::equal(by_position, by_keyword));
  EXPECT_TRUE(torch::equal(by_position, problem.module.forward({problem.x, 2.0}).toTensor()));
  EXPECT_FALSE(torch::equal(by_position, network.predict(problem.x).prediction));
}

TEST(ScriptNetwork, UpdatesBuffersOnceATrainingStep) {
  ScriptProblem problem;
  ScriptNetwork network(problem.module, "middle");
  training_losses(network, problem.method(), problem.x, torch::zeros({6, 3}, f64));
  EXPECT_EQ(problem.module.attr("calls").toTensor().item<double>(), 1);
}

TEST(ScriptNetwork, TrainingDrawsAnewInEachPass) {
  torch::manual_seed(0);
  torch::jit::Module module("Random");
  module.register_attribute("training", c10::BoolType::get(), true);
  module.register_module("first", linear(5, 8));
  module.register_module("middle", linear(8, 8));
  module.register_module("last", linear(8, 3));
  module.register_buffer("calls", torch::zeros({}, f64));
  module.define(R"(
def forward(self, x):
  self.calls.add_(1)
  h = torch.dropout(torch.tanh(self.first.forward(x)), 0.5, self.training)
  return self.last.forward(torch.dropout(torch.tanh(self.middle.forward(h)), 0.5, self.training))
)");
  const auto x = torch::randn({6, 5}, f64);
  ScriptNetwork network(module, "middle");
  const Inject as_it_is([](const at::Tensor& features) { return features; });
  for (int call = 1; call < 3; ++call) {
    torch::manual_seed(call);
    const FirstPass first = network.predict(x);
    const at::Tensor second = network.resume(x, first, &as_it_is);
    EXPECT_EQ(module.attr("calls").toTensor().item<double>(), call);
    torch::manual_seed(call);
    torch::jit::Module copy = module.deepcopy();
    EXPECT_TRUE(torch::allclose(first.prediction, copy.forward({x}).toTensor()));
    EXPECT_TRUE(torch::allclose(second, copy.forward({x}).toTensor()));
    EXPECT_FALSE(torch::allclose(second, first.prediction));
  }
}

TEST(ScriptNetwork, AdaptsInThreadsAsOneAfterTheOther) {
  ScriptProblem problem;
  auto network = std::make_shared<ScriptNetwork>(problem.module, "middle");
  Engine engine(network);
  engine.uncertainty(problem.x);  // shapes the embedder
  constexpr std::size_t batches = 64, threads = 8;
  std::vector<at::Tensor> expected(batches), actual(batches);
  const auto run = [&](std::vector<at::Tensor>& results, std::size_t i) {
    results[i] = engine.adapt(problem.x + 0.1 * static_cast<double>(i)).prediction;
  };
  for (std::size_t i = 0; i < batches; ++i) run(expected, i);
  std::vector<std::thread> pool;
  for (std::size_t t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (std::size_t i = t; i < batches; i += threads) run(actual, i);
    });
  }
  for (auto& thread : pool) thread.join();
  EXPECT_TRUE(equal(actual, expected));
}

/// What each sample alone comes to.
std::pair<at::Tensor, at::Tensor> one_by_one(Network& network, const Method& method, const at::Tensor& x) {
  std::vector<at::Tensor> predictions, losses;
  for (const auto& sample : x.split(1)) {
    const auto alone = adapt(network, method, {}, sample);
    predictions.push_back(alone.prediction);
    losses.push_back(alone.losses);
  }
  return {torch::cat(predictions), torch::stack(losses, 1)};
}

TEST(PerSample, EqualsALoop) {
  ScriptProblem problem;
  ScriptNetwork script(problem.module, "middle");
  Options options;
  options.per_sample = true;
  for (const std::optional<std::int64_t> chunk_size : {std::optional<std::int64_t>(), {4}}) {
    options.chunk_size = chunk_size;
    const auto result = adapt(script, problem.method(), options, problem.x);
    const auto [predictions, losses] = one_by_one(script, problem.method(), problem.x);
    EXPECT_TRUE(close(result.prediction, predictions));
    EXPECT_TRUE(close(result.losses, losses));
  }
}

TEST(PerSample, IsALoopForModules) {
  Problem problem;
  Options options;
  options.per_sample = true;
  const auto result = adapt(*problem.network, problem.method(), options, problem.x);
  const auto [predictions, losses] = one_by_one(*problem.network, problem.method(), problem.x);
  EXPECT_TRUE(torch::equal(result.prediction, predictions));
  EXPECT_TRUE(torch::equal(result.losses, losses));
}

TEST(ScriptNetwork, NamesWhatCannotBeCut) {
  ScriptProblem problem;
  EXPECT_THROW(ScriptNetwork(problem.module, "midle"), c10::ValueError);
  EXPECT_THROW(ScriptNetwork(problem.module, "calls"), c10::ValueError);
  torch::jit::Module twice("Twice");
  twice.register_module("layer", linear(4, 4));
  twice.define("def forward(self, x):\n  return self.layer.forward(self.layer.forward(x))\n");
  EXPECT_THROW(ScriptNetwork(twice, "layer"), c10::ValueError);
}

/// The interpreter makes a std::runtime_error of it, by which nobody would know to take a smaller batch.
TEST(ScriptNetworkTest, SaysByItsTypeThatMemoryIsShort) {
  torch::jit::Module module("Hungry");
  module.register_module("layer", linear(5, 8));
  module.define("def forward(self, x):\n  return hungry(self.layer.forward(x))\n", std::make_shared<KnowsHungry>());
  ScriptNetwork network(module, "layer");
  EXPECT_THROW(network.predict(Inputs(torch::randn({3, 5}, f64)), nullptr), c10::OutOfMemoryError);
}

}  // namespace
}  // namespace it3::test
