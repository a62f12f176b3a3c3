#pragma once

#include <cstdint>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// The weights of the default embedder, a two-layer perceptron over channels, for predictions of C channels and
/// features of F channels. Without weights, the prediction itself is the embedding.
struct EmbedderWeights {
  /// (F, C), (F), (F, F) and (F), of one floating-point dtype; undefined without weights.
  at::Tensor weight1, bias1, weight2, bias2;
  /// 0 with weights. Without, how many channels of the features, the last ones, the prediction is put into.
  std::int64_t extra_channels = 0;

  /// Whether the embedder has weights to learn.
  bool are_learned() const { return extra_channels == 0; }
};

/// Weights that have no shape yet: empty tensors with as many dimensions as make_embedder_weights() gives them, so that
/// an optimizer that goes by these tells weights from biases.
IT3_API EmbedderWeights empty_embedder_weights(const at::TensorOptions& options = {});

/// Draws new weights for predictions and features like these two tensors, on the device and in the dtype of the
/// features (float32 under autocast). The distribution is that of torch.nn.Linear: U(−k, k) with k = 1/sqrt(inputs).
///
/// @throws c10::ValueError  if the features are not floating-point
///
/// @code{.cpp}
/// at::Tensor y0 = torch::randn({8, 3}), features = torch::randn({8, 64});
/// it3::EmbedderWeights weights = it3::make_embedder_weights(y0, features);
/// assert(weights.weight1.size(0) == 64 && weights.weight1.size(1) == 3);
/// @endcode
IT3_API EmbedderWeights make_embedder_weights(
    const at::Tensor& prediction,
    const at::Tensor& features,
    const Layout& prediction_layout = {},
    const Layout& features_layout = {});

/// The embedding of a prediction: LeakyReLU(Linear(LeakyReLU(Linear(prediction)))) over its channels, at each position
/// (pixel, token, ...).
///
/// - A prediction without positions, (B, C) or (B), gives (B, F), which broadcast_add() spreads over the features'
///   positions.
/// - A prediction with positions, such as (B, C, H, W), is resized to the features' positions by adaptive average
///   pooling and gives the features' shape. If the features have no positions, (B, F), it is averaged over its own.
/// - Without weights the embedding is the prediction itself, put behind zeros into the last of the F channels. Added to
///   features whose last channels are zeros, as those of an InputLayer are, it is thereby concatenated to the others.
///
/// @throws c10::ValueError  naming both shapes, if prediction and features cannot be brought together, or are not those
///                          that the weights are for; and, without weights, if the prediction has not
///                          `extra_channels` channels
///
/// @code{.cpp}
/// at::Tensor y0 = torch::randn({8, 3}), features = torch::randn({8, 64, 5, 5});
/// it3::EmbedderWeights weights = it3::make_embedder_weights(y0, features);
/// at::Tensor embedding = it3::embed(y0, features, weights);          // (8, 64)
/// at::Tensor combined = it3::broadcast_add(features, embedding);  // (8, 64, 5, 5)
/// assert(combined.sizes() == features.sizes());
/// @endcode
IT3_API at::Tensor embed(
    const at::Tensor& prediction,
    const at::Tensor& features,
    const EmbedderWeights& weights,
    const Layout& prediction_layout = {},
    const Layout& features_layout = {});

/// features + embedding, in the features' shape. An embedding of shape (B, F) is added at every position of the
/// features; another one is broadcast over the trailing dimensions that it lacks.
///
/// @throws c10::ValueError  naming both shapes, if they do not fit
///
/// @code{.cpp}
/// at::Tensor tokens = torch::zeros({8, 10, 64}), embedding = torch::ones({8, 64});
/// at::Tensor sum = it3::broadcast_add(tokens, embedding, it3::Layout{.channel_dim = -1});
/// assert(sum.eq(1).all().item<bool>());
/// @endcode
IT3_API at::Tensor broadcast_add(
    const at::Tensor& features, const at::Tensor& embedding, const Layout& features_layout = {});

/// The default embedder as a module, with embed() as its forward(). Its four parameters exist from construction, empty,
/// so that an optimizer that is built before the first call trains them. They take their shapes from the first
/// prediction and features that it is called with.
///
/// Several threads may call it at the same time, the first call included.
///
/// @code{.cpp}
/// it3::Embedder embedder;
/// torch::optim::Adam optimizer(embedder->parameters());
/// at::Tensor embedding = embedder->forward(torch::randn({8, 3}), torch::randn({8, 64}));  // (8, 64)
/// embedding.pow(2).mean().backward();
/// optimizer.step();
/// assert(embedder->is_built() && embedder->weights().bias2.size(0) == 64);
/// @endcode
class IT3_API EmbedderImpl : public torch::nn::Cloneable<EmbedderImpl> {
 public:
  /// @param prediction_layout  which dimensions of predictions are samples and channels
  /// @param features_layout  the same for features
  /// @param extra_channels  0 for an embedder with weights; else see EmbedderWeights
  /// @throws c10::ValueError  for a negative number of channels
  explicit EmbedderImpl(Layout prediction_layout = {}, Layout features_layout = {}, std::int64_t extra_channels = 0);

  /// Registers empty parameters anew, which clone() needs.
  void reset() override;
  /// Writes the name of the class and, without weights, the number of extra channels.
  void pretty_print(std::ostream& stream) const override;

  /// embed() with the embedder's weights, which the first call draws.
  ///
  /// @throws c10::ValueError  where embed() and make_embedder_weights() do
  at::Tensor forward(const at::Tensor& prediction, const at::Tensor& features);

  /// Whether the parameters have their shapes; true for an embedder without parameters.
  bool is_built() const;

  /// The embedder's own weights, not copies; empty tensors before the first call.
  const EmbedderWeights& weights() const { return weights_; }
  /// Which dimensions of predictions are samples and channels.
  const Layout& prediction_layout() const { return prediction_layout_; }
  /// Which dimensions of features are samples and channels.
  const Layout& features_layout() const { return features_layout_; }

  /// Sets which dimensions are samples and channels from now on.
  void set_layouts(Layout prediction_layout, Layout features_layout);

  /// Makes these tensors the values of the parameters, without copying them.
  void set_weights(const EmbedderWeights& weights);

  /// Makes the parameters empty again, for predictions and features of other sizes.
  void clear();

 private:
  Layout prediction_layout_;
  Layout features_layout_;
  EmbedderWeights weights_;
};
/// A shared pointer to EmbedderImpl, of the kind that torch::nn has for its modules.
TORCH_MODULE(Embedder);

}  // namespace it3
