#include "network_fixture.h"

namespace it3::test {
namespace {

TEST(Embedder, DrawsItsWeightsAsLinearLayersDo) {
  torch::manual_seed(7);
  const torch::nn::Linear first(3, 8), second(8, 8);
  torch::manual_seed(7);
  const auto weights = make_embedder_weights(torch::randn({0, 3}), torch::empty({4, 8}));
  EXPECT_TRUE(torch::equal(weights.weight1, first->weight));
  EXPECT_TRUE(torch::equal(weights.bias1, first->bias));
  EXPECT_TRUE(torch::equal(weights.weight2, second->weight));
  EXPECT_TRUE(torch::equal(weights.bias2, second->bias));
}

TEST(Embedder, ParametersExistBeforeTheFirstForward) {
  Embedder embedder;
  ASSERT_EQ(embedder->parameters().size(), 4);
  torch::optim::SGD optimizer(embedder->parameters(), 0.1);
  EXPECT_FALSE(embedder->is_built());
  embedder->forward(torch::randn({4, 3}), torch::randn({4, 8})).sum().backward();
  EXPECT_TRUE(embedder->is_built());
  const auto before = embedder->parameters()[0].detach().clone();
  optimizer.step();
  EXPECT_FALSE(torch::equal(embedder->parameters()[0], before));
  embedder->clear();
  EXPECT_FALSE(embedder->is_built());
}

TEST(Embedder, ParametersHaveAllTheirDimensionsFromTheStart) {
  Embedder embedder;
  const auto dims = [&] {
    std::vector<std::int64_t> all;
    for (const at::Tensor& parameter : embedder->parameters()) all.push_back(parameter.dim());
    return all;
  };
  const auto before = dims();
  embedder->forward(torch::randn({4, 3}), torch::randn({4, 8}));
  EXPECT_EQ(dims(), before);
  embedder->clear();
  EXPECT_EQ(dims(), before);
}

TEST(Embedder, IsThePerceptronAtEachPlace) {
  torch::manual_seed(0);
  const auto prediction = torch::randn({2, 3, 4, 4}, f64), features = torch::randn({2, 8, 2, 2}, f64);
  const auto w = make_embedder_weights(prediction, features);
  const auto embedding = embed(prediction, features, w);
  for (const std::int64_t row : {0, 1}) {
    for (const std::int64_t column : {0, 1}) {
      auto mean = torch::zeros({2, 8}, f64);
      for (const std::int64_t i : {0, 1}) {
        for (const std::int64_t j : {0, 1}) {
          const auto pixel = prediction.select(3, 2 * column + j).select(2, 2 * row + i);
          const auto hidden = torch::leaky_relu(pixel.matmul(w.weight1.t()) + w.bias1);
          mean += torch::leaky_relu(hidden.matmul(w.weight2.t()) + w.bias2) / 4;
        }
      }
      EXPECT_TRUE(close(embedding.select(3, column).select(2, row), mean));
    }
  }
}

TEST(BroadcastAdd, SpreadsVectorsOverPlaces) {
  const auto embedding = torch::randn({2, 8});
  const auto image = torch::randn({2, 8, 3, 3});
  EXPECT_TRUE(torch::equal(broadcast_add(image, embedding), image + embedding.view({2, 8, 1, 1})));
  const auto tokens = torch::randn({2, 5, 8});
  EXPECT_TRUE(torch::equal(broadcast_add(tokens, embedding), tokens + embedding.view({2, 1, 8})));
  const auto tokens_first = torch::randn({5, 2, 8});
  const Layout layout{.channel_dim = -1, .batch_dim = 1};
  EXPECT_TRUE(torch::equal(broadcast_add(tokens_first, embedding, layout), tokens_first + embedding));
  EXPECT_THROW(broadcast_add(image, torch::randn({2, 7})), c10::ValueError);
}

TEST(Layout, IsToldByTheKindOfLayer) {
  EXPECT_EQ(channel_dim_of_kind("Linear"), -1);
  EXPECT_EQ(channel_dim_of_kind("torch::nn::LayerNormImpl"), -1);
  EXPECT_EQ(channel_dim_of_kind("torch::nn::Conv2dImpl"), 1);
  EXPECT_EQ(channel_dim_of_kind("BatchNorm1d"), 1);
  EXPECT_EQ(channel_dim_of_kind("ConvTranspose3d"), 1);
  for (const char* kind : {"ReLU", "ConvNet", "TransformerClassifier", "LinearProbe"}) {
    EXPECT_EQ(channel_dim_of_kind(kind), std::nullopt) << kind;
  }
  EXPECT_EQ(Layout{}.channel_of(3), 2);
  EXPECT_EQ(Layout{}.channel_of(4), 1);
  EXPECT_EQ(Layout{.channel_dim = -1}.channel_of(4), 3);
  EXPECT_TRUE(is_normalization("torch::nn::BatchNorm2dImpl"));
  EXPECT_FALSE(is_normalization("torch::nn::Conv2dImpl"));
}

}  // namespace
}  // namespace it3::test
