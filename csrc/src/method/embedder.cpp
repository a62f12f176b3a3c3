#include <it3/embedder.h>

#include <cmath>
#include <mutex>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "support/vmap.h"

namespace it3 {
namespace {

/// (B, C, positions...), whatever the layout.
at::Tensor channels_second(const at::Tensor& t, const Layout& layout) {
  if (t.dim() < 2) return t.reshape({-1, 1});
  return t.movedim({layout.batch_of(t.dim()), layout.channel_of(t.dim())}, {0, 1});
}

c10::SymIntArrayRef positions_of(const at::Tensor& channels) { return channels.sym_sizes().slice(2); }

/// A linear map of channels, at each position.
at::Tensor pointwise(const at::Tensor& channels, const at::Tensor& weight, const at::Tensor& bias) {
  if (channels.dim() == 2) return at::linear(channels, weight, bias);
  const auto mapped = at::conv1d(channels.flatten(2), weight.unsqueeze(-1), bias);
  return mapped.unflatten_symint(2, positions_of(channels));
}

/// Places averaged or repeated to another number of them.
at::Tensor resize_positions(const at::Tensor& channels, c10::SymIntArrayRef positions) {
  switch (positions.size()) {
    case 1: return at::adaptive_avg_pool2d_symint(channels.unsqueeze(2), {1, positions[0]}).squeeze(2);
    case 2: return at::adaptive_avg_pool2d_symint(channels, positions);
    default: return at::adaptive_avg_pool3d_symint(channels, positions);
  }
}

/// What the two linear maps make of a prediction's channels.
at::Tensor mapped(const at::Tensor& channels, const EmbedderWeights& weights) {
  const at::Tensor hidden = at::leaky_relu(pointwise(channels, weights.weight1, weights.bias1));
  return at::leaky_relu(pointwise(hidden, weights.weight2, weights.bias2));
}

/// A prediction's channels as the last of so many, behind zeros.
at::Tensor in_last_channels(const at::Tensor& channels, const c10::SymInt& count) {
  std::vector<c10::SymInt> sizes = channels.sym_sizes().vec();
  sizes[1] = count - sizes[1];
  return at::cat({channels.new_zeros_symint(sizes), channels}, 1);
}

std::string misfit(const at::Tensor& prediction, const at::Tensor& features) {
  return c10::str(
      "the default embedder cannot bring a prediction of shape ", prediction.sizes(), " to features of shape ",
      features.sizes());
}

/// Drawn in the order and from the distribution of torch.nn.Linear: U(-k, k), k = 1/sqrt(inputs).
std::pair<at::Tensor, at::Tensor> make_linear(std::int64_t inputs, std::int64_t outputs, at::TensorOptions options) {
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  const auto weight = at::empty({outputs, inputs}, options).uniform_(-bound, bound);
  const auto bias = at::empty({outputs}, options).uniform_(-bound, bound);
  return {weight, bias};
}

}  // namespace

EmbedderWeights empty_embedder_weights(const at::TensorOptions& options) {
  // With one input rather than none, for initializations that divide by the number of inputs and outputs.
  return {at::empty({0, 1}, options), at::empty({0}, options), at::empty({0, 1}, options), at::empty({0}, options)};
}

EmbedderWeights make_embedder_weights(
    const at::Tensor& prediction,
    const at::Tensor& features,
    const Layout& prediction_layout,
    const Layout& features_layout) {
  TORCH_CHECK_VALUE(
      features.is_floating_point(), "the layer's output has the dtype ", features.scalar_type(),
      "; name a layer with a floating-point output, or give an embedder and a combine_fn");
  // Under autocast features can be half precision, which weights that will be trained should not be.
  const c10::InferenceMode no_inference(false);
  const at::NoGradGuard no_grad;
  const bool is_autocast = at::autocast::is_autocast_enabled(features.device().type());
  const auto options = features.options().dtype(is_autocast ? at::kFloat : features.scalar_type()).requires_grad(false);
  const bool is_one_sample = prediction.dim() == 1 && features.dim() == 1;
  const auto channels = [&](const at::Tensor& t, const Layout& layout) {
    return is_one_sample ? t.size(0) : channels_second(t, layout).size(1);
  };
  const std::int64_t inputs = channels(prediction, prediction_layout);
  const std::int64_t outputs = channels(features, features_layout);
  // Weights belong to all samples, also where those are run each by itself.
  const detail::WithoutVmap without_vmap;
  EmbedderWeights weights;
  std::tie(weights.weight1, weights.bias1) = make_linear(inputs, outputs, options);
  std::tie(weights.weight2, weights.bias2) = make_linear(outputs, outputs, options);
  return weights;
}

at::Tensor embed(
    const at::Tensor& prediction,
    const at::Tensor& features,
    const EmbedderWeights& weights,
    const Layout& prediction_layout,
    const Layout& features_layout) {
  if (prediction.dim() == 1 && features.dim() == 1) {  // one sample without a batch dimension
    return embed(prediction.unsqueeze(0), features.unsqueeze(0), weights).squeeze(0);
  }
  const at::Tensor& like = weights.are_learned() ? weights.weight1 : features;
  const at::Tensor from = channels_second(prediction.to(like.device(), like.scalar_type()), prediction_layout);
  const at::Tensor to = channels_second(features, features_layout);
  if (weights.are_learned()) {
    TORCH_CHECK_VALUE(
        from.sym_size(1) == weights.weight1.size(1) && to.sym_size(1) == weights.weight1.size(0),
        misfit(prediction, features), ": its weights are for predictions of ", weights.weight1.size(1),
        " and features of ", weights.weight1.size(0),
        " channels; give another embedder, or clear() this one and train it anew");
  } else {
    TORCH_CHECK_VALUE(
        from.sym_size(1) == weights.extra_channels && from.sym_size(1) < to.sym_size(1), misfit(prediction, features),
        ": the prediction is put into ", weights.extra_channels,
        " extra channels of the features, but the prediction has ", from.size(1),
        "; make the input layer and the embedder with that number as extra_channels");
    TORCH_CHECK_VALUE(
        features.is_floating_point() || features.is_complex(), "a prediction is fed back as it is, but the input has ",
        "the dtype ", features.scalar_type(), ", which would round it; name a layer with a floating-point output");
    TORCH_CHECK_VALUE(
        features.is_complex() || !prediction.is_complex(),
        "a complex prediction cannot be fed back as it is at a real "
        "input; give a combine_fn and an embedder of your own");
  }
  TORCH_CHECK_VALUE(
      from.sym_size(0) == to.sym_size(0) || from.sym_size(0) == 1, misfit(prediction, features),
      ": the prediction has ", from.size(0), " samples, the features ", to.size(0),
      "; give an embedder and a combine_fn");

  at::Tensor embedding =
      weights.are_learned() ? mapped(from, weights).to(features.scalar_type()) : in_last_channels(from, to.sym_size(1));
  const auto from_positions = positions_of(from), to_positions = positions_of(to);
  if (!from_positions.empty() && to_positions.empty()) embedding = embedding.flatten(2).mean(2);
  if (features.dim() < 2) return embedding.reshape_symint(features.sym_sizes());
  if (from_positions.empty() || to_positions.empty()) return embedding;
  TORCH_CHECK_VALUE(
      from_positions.size() == to_positions.size() && to_positions.size() <= 3, misfit(prediction, features),
      ": beside samples and channels, the prediction has ", from_positions.size(), " dimensions, the features ",
      to_positions.size(), "; give an embedder of your own");
  if (from_positions != to_positions) embedding = resize_positions(embedding, to_positions);
  return embedding.movedim(
      {0, 1}, {features_layout.batch_of(features.dim()), features_layout.channel_of(features.dim())});
}

at::Tensor broadcast_add(const at::Tensor& features, const at::Tensor& embedding, const Layout& features_layout) {
  at::Tensor spread = embedding;
  if (features.dim() > 2 && embedding.dim() == 2) {
    std::vector<c10::SymInt> shape(static_cast<std::size_t>(features.dim()), 1);
    shape[static_cast<std::size_t>(features_layout.batch_of(features.dim()))] = embedding.sym_size(0);
    shape[static_cast<std::size_t>(features_layout.channel_of(features.dim()))] = embedding.sym_size(1);
    spread = embedding.reshape_symint(shape);
  }
  while (spread.dim() < features.dim()) spread = spread.unsqueeze(-1);
  bool fits = spread.dim() == features.dim();
  for (std::int64_t d = 0; fits && d < features.dim(); ++d) {
    fits = spread.sym_size(d) == features.sym_size(d) || spread.sym_size(d) == 1;
  }
  TORCH_CHECK_VALUE(
      fits, "an embedding of shape ", embedding.sizes(), " cannot be added to features of shape ", features.sizes(),
      "; give a combine_fn, or an embedder whose output broadcasts to the features");
  return features + spread;
}

EmbedderImpl::EmbedderImpl(Layout prediction_layout, Layout features_layout, std::int64_t extra_channels)
    : prediction_layout_(prediction_layout), features_layout_(features_layout) {
  TORCH_CHECK_VALUE(extra_channels >= 0, "extra_channels must be a whole number, 0 or more, not ", extra_channels);
  weights_.extra_channels = extra_channels;
  EmbedderImpl::reset();
}

void EmbedderImpl::reset() {
  if (!weights_.are_learned()) return;
  const EmbedderWeights none = empty_embedder_weights();
  weights_.weight1 = register_parameter("weight1", none.weight1);
  weights_.bias1 = register_parameter("bias1", none.bias1);
  weights_.weight2 = register_parameter("weight2", none.weight2);
  weights_.bias2 = register_parameter("bias2", none.bias2);
}

void EmbedderImpl::pretty_print(std::ostream& stream) const {
  stream << "it3::Embedder(" << (weights_.are_learned() ? "" : c10::str("extra_channels=", weights_.extra_channels))
         << ")";
}

bool EmbedderImpl::is_built() const { return !weights_.are_learned() || weights_.weight1.numel() != 0; }

void EmbedderImpl::set_layouts(Layout prediction_layout, Layout features_layout) {
  prediction_layout_ = prediction_layout;
  features_layout_ = features_layout;
}

void EmbedderImpl::set_weights(const EmbedderWeights& weights) {
  weights_.weight1.set_data(weights.weight1);
  weights_.bias1.set_data(weights.bias1);
  weights_.weight2.set_data(weights.weight2);
  weights_.bias2.set_data(weights.bias2);
}

void EmbedderImpl::clear() {
  if (!weights_.are_learned()) return;
  set_weights(empty_embedder_weights(weights_.weight1.options().requires_grad(false)));
}

at::Tensor EmbedderImpl::forward(const at::Tensor& prediction, const at::Tensor& features) {
  {
    // One for all embedders: they are shaped once, and a mutex of their own could not be cloned.
    static std::mutex shaping;
    const std::scoped_lock lock(shaping);
    if (!is_built()) set_weights(make_embedder_weights(prediction, features, prediction_layout_, features_layout_));
  }
  return embed(prediction, features, weights_, prediction_layout_, features_layout_);
}

}  // namespace it3
