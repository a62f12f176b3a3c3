#include "network_fixture.h"

namespace it3::test {
namespace {

/// Turns images from channels in dimension 1 to channels last.
struct ChannelsLastImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) { return x.permute({0, 2, 3, 1}); }
};
TORCH_MODULE(ChannelsLast);

std::string explained(const torch::nn::Sequential& model, const std::string& layer, const at::Tensor& x) {
  Engine engine(std::make_shared<ModuleNetwork>(model, layer));
  engine.uncertainty(x);
  return engine.explain(x).str();
}

TEST(Layout, OfALinearLayerIsLastAtEveryRank) {
  const torch::nn::Sequential model(
      {{"a", torch::nn::Linear(5, 8)}, {"tanh", torch::nn::Tanh()}, {"b", torch::nn::Linear(8, 2)}});
  for (const auto* const layer : {"a", "tanh"}) {
    Engine engine(std::make_shared<ModuleNetwork>(model, layer));
    engine.adapt(torch::randn({2, 3, 4, 5}));
    EXPECT_EQ(engine.embedder()->weights().weight1.sizes(), (std::vector<std::int64_t>{8, 2}));
    const Explanation explanation = engine.explain(torch::randn({2, 3, 4, 5}));
    EXPECT_EQ(explanation.shapes.features.str(), "(2, 3, 4, 8), channels in dimension 3 (8), samples in dimension 0");
    EXPECT_EQ(explanation.shapes.prediction.str(), "(2, 3, 4, 2), channels in dimension 3 (2), samples in dimension 0");
    EXPECT_EQ(explanation.runs, "cut at the layer, a torch::nn::Sequential");
    EXPECT_TRUE(explanation.is_cut);
    EXPECT_EQ(explanation.fed_back, "y0");
  }
}

TEST(Layout, IsCheckedByPassesOfOtherSizes) {
  const torch::nn::Sequential model(
      {{"conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 6, 1))},
       {"turn", ChannelsLast()},
       {"head", torch::nn::Linear(6, 2)}});
  for (const std::int64_t size : {4, 6}) {  // places may be as many as channels
    const auto x = torch::randn({2, 3, size, size});
    EXPECT_NE(explained(model, "turn", x).find("channels in dimension 3 (6)"), std::string::npos);
    EXPECT_NE(explained(model, "conv", x).find("channels in dimension 1 (6)"), std::string::npos);
  }
}

/// Compares all tokens with all: there are no channels.
struct PairsImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) { return x.matmul(x.mT()); }
};
TORCH_MODULE(Pairs);

TEST(Layout, IsAnErrorWhereItStaysOpen) {
  const torch::nn::Sequential model({{"embed", torch::nn::Linear(3, 8)}, {"pairs", Pairs()}});
  const auto network = std::make_shared<ModuleNetwork>(model, "embed");
  const auto x = torch::randn({2, 5, 3});
  Engine open(network);
  try {
    open.adapt(x);
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what()).find("the prediction, shape [2, 5, 5]"), std::string::npos);
  }
  Engine given(network, {}, Embedder(Layout{.channel_dim = 2}));
  EXPECT_TRUE(given.adapt(x).prediction.isfinite().all().item<bool>());
  Engine wrong(network, {}, Embedder(Layout{.channel_dim = 3}));
  EXPECT_THROW(wrong.adapt(x), c10::IndexError);
}

/// A recurrent layer, whose samples are in dimension 1, and what follows it.
struct RecurrentImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    const auto y = head(point(std::get<0>(rnn(x))));
    return is_turned ? y.transpose(0, 1) : y;
  }

  torch::nn::LSTM rnn = register_module("rnn", torch::nn::LSTM(4, 8));
  InjectionPoint point = register_module("point", InjectionPoint());
  torch::nn::Linear head = register_module("head", torch::nn::Linear(8, 2));
  bool is_turned = false;
};
TORCH_MODULE(Recurrent);

TEST(Layout, TellsWhereTheSamplesAre) {
  Recurrent model;
  model->eval();
  for (const bool is_turned : {false, true}) {
    model->is_turned = is_turned;
    Engine engine(std::make_shared<ModuleNetwork>(model));
    const Shapes shapes = engine.explain(torch::randn({6, 3, 4})).shapes;
    EXPECT_EQ(shapes.features.str(), "(6, 3, 8), channels in dimension 2 (8), samples in dimension 1");
    EXPECT_EQ(
        shapes.prediction.str(), is_turned ? "(3, 6, 2), channels in dimension 2 (2), samples in dimension 0"
                                           : "(6, 3, 2), channels in dimension 2 (2), samples in dimension 1");
  }
}

}  // namespace
}  // namespace it3::test
