#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>
#include <it3/backend/samples.h>
#include <it3/neutral.h>

namespace it3 {

/// The embedder: turns a prediction into a tensor to combine with the features, the output of the network's layer.
using Embed = std::function<at::Tensor(const at::Tensor& prediction, const at::Tensor& features)>;

/// Combines the layer's output with an embedding. The result has the shape, dtype and device of the features.
using Combine = std::function<at::Tensor(const at::Tensor& features, const at::Tensor& embedding)>;

/// How far the second prediction is from a reference: a differentiable scalar.
using DistanceFunction = std::function<at::Tensor(const at::Tensor& second, const at::Tensor& reference)>;

/// The distance between predictions: to the network's own first prediction at test time, and to the target in training.
///
/// @code{.cpp}
/// it3::Distance huber([](const at::Tensor& second, const at::Tensor& reference) {
///   return torch::nn::functional::smooth_l1_loss(second, reference);
/// });
/// auto network = std::make_shared<it3::ModuleNetwork>(model, "encoder");
/// it3::Engine engine(network, {.lr = 1e-4}, it3::Embedder(), nullptr, huber);
/// it3::Losses losses = engine.losses(x, y);
/// @endcode
struct Distance {
  /// distance(y1, y0). Both have the shape of the prediction.
  DistanceFunction to_prediction;
  /// distance(y1, target). The target has the shape and dtype of the prediction; class indices are made one-hot before.
  DistanceFunction to_target;
  /// The name by which it is saved; empty for a function of your own.
  std::string name = {};

  /// One function for both. It gets copies of the tensors, so it may write to them.
  template <
      typename F,
      typename = std::enable_if_t<
          std::is_convertible_v<F, DistanceFunction> && !std::is_same_v<std::remove_cvref_t<F>, Distance>>>
  Distance(F both) : Distance(DistanceFunction(std::move(both)), {}) {
    to_target = to_prediction;
  }
  /// One function for each.
  Distance(DistanceFunction prediction, DistanceFunction target)
      : to_prediction(std::move(prediction)), to_target(std::move(target)) {}
};

/// A distance by its name. q is the second prediction, p the reference.
///
/// - "mse": the mean of (q − p)² over all elements.
/// - "l1": the mean of |q − p| over all elements.
/// - "cross_entropy": −Σ p log q.
/// - "kl": the Kullback-Leibler divergence KL(p‖q) = Σ p log(p/q).
/// - "js": the Jensen-Shannon divergence, the mean of KL(p‖m) and KL(q‖m) with m = (p + q)/2.
/// - "cosine": 1 − cos(q, p) over the components.
///
/// "cross_entropy", "kl" and "js" compare class distributions, in nats: they take predictions as logits, to which they
/// apply softmax, and targets as probabilities. They sum over the classes. These three and "cosine" then take the mean
/// over samples and positions.
///
/// @param name  one of distance_names()
/// @param layout  which dimension of predictions holds the classes or components: its channels
/// @throws c10::ValueError  for another name. The functions of the last four throw it for predictions that have only
///                          one number for each sample
///
/// @code{.cpp}
/// it3::Distance js = it3::distance_by_name("js");
/// at::Tensor logits = torch::randn({8, 3});
/// at::Tensor between_predictions = js.to_prediction(torch::randn({8, 3}), logits);
/// at::Tensor to_labels = js.to_target(logits, torch::one_hot(classes, 3).to(torch::kFloat));
/// assert(between_predictions.dim() == 0 && to_labels.item<double>() <= std::log(2) + 1e-6);
/// @endcode
IT3_API Distance distance_by_name(std::string_view name, const Layout& layout = {});

/// Whether the distance of this name compares class distributions: true for "cross_entropy", "kl" and "js".
IT3_API bool is_between_distributions(std::string_view name);

/// The names that distance_by_name() accepts.
IT3_API const std::vector<std::string>& distance_names();

/// The functions that make up IT3, for calls of adapt() and training_losses() without an Engine:
/// y1 = f(x | combine(features, embed(y0))), and the loss is distance(y1, y0) (arXiv 2410.04201).
///
/// @code{.cpp}
/// it3::Embedder embedder;
/// it3::Method method{
///     .embed = [&](const at::Tensor& y0, const at::Tensor& features) { return embedder->forward(y0, features); },
///     .combine = [](const at::Tensor& features, const at::Tensor& e) { return it3::broadcast_add(features, e); },
///     .distance = it3::distance_by_name("l1")};
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Losses losses = it3::training_losses(network, method, it3::Inputs(x), y);
/// @endcode
struct Method {
  /// The embedder.
  Embed embed;
  /// Combines features and embedding; broadcast_add() is the usual one.
  Combine combine;
  /// The distance that adaptation shrinks.
  Distance distance;
  /// Whether `embed` and `combine` are right for features of any memory format, as the default ones are.
  bool takes_any_layout = false;
  /// The signal that stands for "no prediction yet"; see Neutral.
  Neutral neutral = {};
  /// The tensors that the functions read beside their arguments. Set it only if the functions always run the same
  /// operations of torch and do nothing else: such functions can be part of a CUDA graph. Unset for all others.
  std::optional<std::vector<at::Tensor>> reads = std::nullopt;
  /// Which dimensions of predictions are samples and channels (classes or components).
  Layout prediction_layout = {};
  /// Whether softmax(y0) over the channels is fed back instead of y0; see Feedback.
  bool feeds_probabilities = false;
  /// Which dimensions of the inputs hold the samples; see InDims. Unset: the same as in predictions.
  std::optional<InDims> in_dims = std::nullopt;
};

}  // namespace it3
