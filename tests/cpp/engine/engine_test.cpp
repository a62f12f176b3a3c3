#include "error_of.h"
#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(Engine, TrainsTheEmbedderWithAnOptimizerBuiltBeforeTheFirstCall) {
  Problem problem;
  Engine engine(problem.network);
  auto parameters = problem.net->parameters();
  for (const auto& parameter : engine.embedder()->parameters()) parameters.push_back(parameter);
  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-2));
  const auto target = torch::randn({6, 3}, f64);
  std::vector<double> totals;
  at::Tensor start;
  for (int step = 0; step < 50; ++step) {
    const Losses losses = engine.losses(problem.x, target);
    if (step == 0) start = engine.embedder()->parameters()[0].detach().clone();
    const auto total = torch::mse_loss(losses.prediction, target) + losses.loss_ttt;
    optimizer.zero_grad();
    total.backward();
    optimizer.step();
    totals.push_back(total.item<double>());
  }
  EXPECT_LT(totals.back(), totals.front() / 2);
  EXPECT_FALSE(torch::equal(engine.embedder()->parameters()[0], start));
}

TEST(Engine, AdaptsAsTheFreeFunctions) {
  Problem problem;
  Engine engine(problem.network);
  const auto first = engine.adapt(problem.x);
  EXPECT_TRUE(torch::equal(engine.adapt(problem.x).prediction, first.prediction));
  const Method method{
      [&](const at::Tensor& y, const at::Tensor& f) {
        const auto w = engine.embedder()->parameters();
        return embed(y, f, {w[0], w[1], w[2], w[3]});
      },
      [](const at::Tensor& f, const at::Tensor& e) { return f + e; }, distance_by_name("mse")};
  EXPECT_TRUE(close(adapt(*problem.network, method, {}, problem.x).prediction, first.prediction));
  EXPECT_TRUE(close(uncertainty(*problem.network, method, problem.x), engine.uncertainty(problem.x)));
}

TEST(Engine, GivesFunctionsCopiesToWriteTo) {
  torch::manual_seed(0);
  torch::nn::Sequential model(torch::nn::Linear(4, 8), torch::nn::Tanh(), torch::nn::Linear(8, 3));
  model->to(torch::kFloat64);
  model->eval();
  const at::Tensor x = torch::randn({5, 4}, f64), weight = torch::randn({8, 3}, f64);
  const auto adapted = [&](bool writes) {
    const Method method{
        [&](const at::Tensor& y, const at::Tensor&) { return (writes ? y.mul_(2) : y * 2).matmul(weight.t()); },
        [&](const at::Tensor& f, const at::Tensor& e) { return writes ? f.add_(e) : f + e; },
        Distance([&](const at::Tensor& a, const at::Tensor& b) { return (writes ? b.sub_(a) : b - a).abs().mean(); })};
    Options options;
    options.lr = 0.01;
    options.parameters = {"2.*"};  // the head is run once, for all passes
    ModuleNetwork network(model, "0");
    return adapt(network, method, options, x);
  };
  const auto expected = adapted(false), actual = adapted(true);
  EXPECT_TRUE(close(actual.prediction, expected.prediction));
  EXPECT_TRUE(close(actual.losses, expected.losses));
}

TEST(Engine, KeepsAdaptedWeightsUntilReset) {
  Problem problem;
  Engine engine(problem.network);
  engine.options.copy_model = false;
  const auto before = problem.snapshot();
  const auto first = engine.adapt(problem.x).prediction;
  EXPECT_TRUE(torch::equal(problem.net->forward(problem.x), first));
  EXPECT_FALSE(equal(problem.snapshot(), before));
  engine.adapt(problem.x);
  engine.reset();
  EXPECT_TRUE(equal(problem.snapshot(), before));
  EXPECT_TRUE(torch::equal(engine.adapt(problem.x).prediction, first));
}

TEST(Engine, LeavesTheEmbedderUnbuiltIfTheFirstCallFails) {
  Problem problem;
  Engine engine(problem.network);
  engine.options.parameters = {"nothing"};
  EXPECT_THROW(engine.adapt(problem.x), c10::ValueError);
  engine.options.parameters = {"all"};
  EXPECT_THROW(engine.adapt(torch::full({6, 5}, std::nan(""), f64)), c10::ValueError);
  EXPECT_FALSE(engine.embedder()->is_built());
}

TEST(Engine, SaysWhatIsNull) {
  Problem problem;
  EXPECT_THROW(Engine(nullptr), c10::ValueError);
  EXPECT_THROW(Engine{std::shared_ptr<ModuleNetwork>()}, c10::ValueError);
  EXPECT_THROW(Engine(problem.network, {}, nullptr), c10::ValueError);
  EXPECT_THROW(Engine(problem.network, {}, Embedder(nullptr)), c10::ValueError);
  EXPECT_THROW(Engine(problem.network, {}, Embedder(), nullptr, DistanceFunction()), c10::ValueError);
  EXPECT_THROW(ModuleNetwork(problem.net.ptr(), nullptr), c10::ValueError);
  EXPECT_THROW(ModuleNetwork{std::shared_ptr<NetImpl>()}, c10::ValueError);
  EXPECT_THROW(ModuleNetwork{Net(nullptr)}, c10::ValueError);
  EXPECT_THROW(ModuleNetwork(torch::nn::Sequential(nullptr), "a"), c10::ValueError);
}

TEST(Engine, TakesModelsAndFunctionsInEveryForm) {
  Problem problem;
  const std::shared_ptr<NetImpl> pointer = problem.net.ptr();
  const auto distance = [](const at::Tensor& second, const at::Tensor& first) { return (second - first).abs().mean(); };
  const Embed embed = problem.method().embed;
  Engine by_name(problem.network, {}, embed, nullptr, distance_by_name("l1"));
  Engine by_function(pointer, {}, embed, nullptr, distance),
      of_holder(problem.net, {}, embed, nullptr, Distance(distance));
  const auto expected = by_name.adapt(problem.x).prediction;
  EXPECT_TRUE(close(by_function.adapt({problem.x}).prediction, expected));
  EXPECT_TRUE(close(of_holder.adapt(problem.x).prediction, expected));
  ModuleNetwork of_two(pointer, [&](const Inputs& inputs) {
    return problem.net->forward(inputs.args.at(0).toTensor() + inputs.args.at(1).toTensor());
  });
  Engine two(std::shared_ptr<Network>(&of_two, [](Network*) {}), {}, embed, nullptr, distance);
  const Engine moved = std::move(two);
  EXPECT_TRUE(close(Engine(problem.net, {}, embed, nullptr, distance).adapt({problem.x}).prediction, expected));
  Engine again(std::shared_ptr<Network>(&of_two, [](Network*) {}), {}, embed, nullptr, distance);
  EXPECT_TRUE(close(again.adapt({problem.x / 2, problem.x / 2}).prediction, expected));
  EXPECT_EQ(moved.parameters().size(), pointer->parameters().size());
}

/// (B, 4) to (B, 5, 7), by no layer that tells which of the two are the classes.
struct TwoOpenDimensionsImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    return torch::einsum("bij,ik,jl->bkl", {point(layer(x)).tanh().view({-1, 2, 4}), p, q});
  }

  torch::nn::Linear layer = register_module("layer", torch::nn::Linear(4, 8));
  InjectionPoint point = register_module("point", InjectionPoint());
  at::Tensor p = register_parameter("p", torch::randn({2, 5})), q = register_parameter("q", torch::randn({4, 7}));
};
TORCH_MODULE(TwoOpenDimensions);

TEST(Engine, AsksForClassesThatAreNeededLater) {
  const auto x = torch::randn({6, 4});
  const Embed embed = [](const at::Tensor& y, const at::Tensor&) { return y.sum({1, 2}).unsqueeze(1).expand({-1, 8}); };
  for (const bool learns : {false, true}) {
    Engine engine(TwoOpenDimensions(), {}, embed);
    engine.adapt(x);
    if (learns) {
      engine.losses(x, torch::randint(7, {6, 5}));
    } else {
      engine.feedback = Feedback::probabilities;
    }
    const std::string error = error_of([&] { engine.adapt(x); });
    EXPECT_NE(error.find("it is not clear which dimension of the prediction"), std::string::npos) << error;
    engine.set_prediction_layout({.channel_dim = 2});
    EXPECT_EQ(engine.adapt(x).steps(), 3);
  }
}

}  // namespace
}  // namespace it3::test
