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

/// Turns a prediction into what is combined with the features.
using Embed = std::function<at::Tensor(const at::Tensor& prediction, const at::Tensor& features)>;

/// Combines a layer's output with an embedding; the result has the shape of the features.
using Combine = std::function<at::Tensor(const at::Tensor& features, const at::Tensor& embedding)>;

/// How far the second prediction is from a reference: a scalar.
using DistanceFunction = std::function<at::Tensor(const at::Tensor& second, const at::Tensor& reference)>;

/// A distance, to the network's own first prediction at test time and to the target in training.
struct Distance {
  DistanceFunction to_prediction;
  DistanceFunction to_target;
  /// Its name, if it has one by which it can be saved.
  std::string name = {};

  /// One function for both, of whatever type.
  template <
      typename F,
      typename = std::enable_if_t<
          std::is_convertible_v<F, DistanceFunction> && !std::is_same_v<std::remove_cvref_t<F>, Distance>>>
  Distance(F both) : Distance(DistanceFunction(std::move(both)), {}) {
    to_target = to_prediction;
  }
  Distance(DistanceFunction prediction, DistanceFunction target)
      : to_prediction(std::move(prediction)), to_target(std::move(target)) {}
};

/// A distance by its name, for predictions whose classes or components are where `layout` has their channels.
///
/// - "mse": mean squared error, "l1": mean absolute error, over all elements.
/// - "cross_entropy": -sum p log q, with q = softmax(second); "kl": sum p log(p/q); "js": the mean of
///   KL(p || m) and KL(q || m), m = (p+q)/2. p = softmax(reference), or a target's own class probabilities. Sums over
///   the classes, means over the rest.
/// - "cosine": 1 - cos(second, reference) over the components, mean over the rest.
///
/// Raises c10::ValueError for another name; the functions of the four that compare classes or components, for
/// predictions that have one number a sample.
IT3_API Distance distance_by_name(std::string_view name, const Layout& layout = {});

/// Whether the distance of this name is one between class distributions: "cross_entropy", "kl" and "js".
IT3_API bool is_between_distributions(std::string_view name);

/// The names that distance_by_name() takes.
IT3_API const std::vector<std::string>& distance_names();

/// The parts of IT3 that are functions: y1 = f(x | combine(features, embed(y0))), loss = distance(y1, y0).
struct Method {
  Embed embed;
  Combine combine;
  Distance distance;
  /// Whether embed and combine are right for features of any memory layout, as the default ones are.
  bool takes_any_layout = false;
  /// The signal that stands for "no prediction yet"; see Neutral.
  Neutral neutral = {};
  /// The tensors that the functions read beside their arguments, if all that they do is to compute with torch's
  /// operations, always the same ones; nothing for functions that may do more. Only such can be part of a CUDA graph.
  std::optional<std::vector<at::Tensor>> reads = std::nullopt;
  /// Where predictions have their samples, and their channels: classes or components.
  Layout prediction_layout = {};
  /// Whether softmax(y0) over the channels is fed back in y0's place; see Feedback.
  bool feeds_probabilities = false;
  /// Along which dimensions of the inputs the samples lie; see InDims. Nothing: as prediction_layout says.
  std::optional<InDims> in_dims = std::nullopt;
};

}  // namespace it3
