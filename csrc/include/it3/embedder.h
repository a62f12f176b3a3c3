#pragma once

#include <cstdint>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// The weights of the default embedder, a two-layer perceptron over channels: (F, C), (F), (F, F), (F) for predictions
/// of C channels and features of F channels. Or none, where the prediction itself is the embedding.
struct EmbedderWeights {
  at::Tensor weight1, bias1, weight2, bias2;
  /// Without weights: how many channels of the features, the last ones, take the prediction.
  std::int64_t extra_channels = 0;

  bool are_learned() const { return extra_channels == 0; }
};

/// New weights for these two tensors, on the features' device and dtype (float32 under autocast), drawn as
/// torch.nn.Linear draws them.
IT3_API EmbedderWeights make_embedder_weights(
    const at::Tensor& prediction,
    const at::Tensor& features,
    const Layout& prediction_layout = {},
    const Layout& features_layout = {});

/// The embedding of a prediction: LeakyReLU(Linear(LeakyReLU(Linear(.)))) over its channels, at each position (pixel,
/// token, ...).
///
/// A prediction without positions, (B, C) or (B), gives (B, F), which combine spreads over the features' positions. One
/// with positions, such as (B, C, H, W), is resized to the features' positions by adaptive average pooling and gives
/// the features' shape; where the features have no positions, (B, F), it is averaged over its own. Raises
/// c10::ValueError, naming both shapes, if the two cannot be brought together.
///
/// Without weights the embedding is the prediction itself, in the last of the F channels, behind zeros: added to
/// features whose last channels are zeros, as behind an InputLayer, it is concatenated to the others. Raises
/// c10::ValueError unless the prediction has that many channels.
IT3_API at::Tensor embed(
    const at::Tensor& prediction,
    const at::Tensor& features,
    const EmbedderWeights& weights,
    const Layout& prediction_layout = {},
    const Layout& features_layout = {});

/// features + embedding, the embedding spread over the dimensions that it lacks: (B, F) over the features'
/// positions, another one over trailing dimensions. Raises c10::ValueError, naming both shapes, if they do not fit.
IT3_API at::Tensor broadcast_add(
    const at::Tensor& features, const at::Tensor& embedding, const Layout& features_layout = {});

/// The default embedder as a module. Its four parameters exist from construction, empty, so that an optimizer built
/// before the first forward trains them; they take their shapes from the first prediction and features seen.
///
/// Threads may call it at once, the first time too.
class IT3_API EmbedderImpl : public torch::nn::Cloneable<EmbedderImpl> {
 public:
  /// @param extra_channels  0 for one with weights; else see EmbedderWeights
  explicit EmbedderImpl(Layout prediction_layout = {}, Layout features_layout = {}, std::int64_t extra_channels = 0);

  /// Registers the parameters anew, empty; clone() needs it.
  void reset() override;
  void pretty_print(std::ostream& stream) const override;

  at::Tensor forward(const at::Tensor& prediction, const at::Tensor& features);

  /// Whether the parameters, if it has any, have their shapes.
  bool is_built() const;

  const EmbedderWeights& weights() const { return weights_; }
  const Layout& prediction_layout() const { return prediction_layout_; }
  const Layout& features_layout() const { return features_layout_; }

  /// Where channels and samples are from now on.
  void set_layouts(Layout prediction_layout, Layout features_layout);

  /// Gives the parameters these values.
  void set_weights(const EmbedderWeights& weights);

  /// Makes the parameters empty again.
  void clear();

 private:
  Layout prediction_layout_;
  Layout features_layout_;
  EmbedderWeights weights_;
};
TORCH_MODULE(Embedder);

}  // namespace it3
