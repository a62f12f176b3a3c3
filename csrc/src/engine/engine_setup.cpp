#include <it3/backend/engine_setup.h>

#include <utility>

#include <c10/util/Exception.h>

#include <it3/neutral.h>

namespace it3 {
void EngineSetup::check() const {
  TORCH_CHECK_VALUE(
      functions.embedder != nullptr || functions.embed != nullptr,
      "the embed of an it3::Engine is null; give an it3::Embedder(), or a function of (prediction, features)");
  TORCH_CHECK_VALUE(
      functions.distance.to_prediction != nullptr && functions.distance.to_target != nullptr,
      "the distance of an it3::Engine is null; give a function of two predictions, or leave it out");
  check_neutral(neutral);
}

bool EngineSetup::feeds_probabilities() const {
  return feedback == Feedback::probabilities ||
         (feedback == Feedback::automatic &&
          (learned_probabilities || is_between_distributions(functions.distance.name)));
}

bool EngineSetup::needs_classes() const {
  const std::string& distance = functions.distance.name;
  return feeds_probabilities() || distance == "cosine" || is_between_distributions(distance);
}

bool EngineSetup::computes_as(const EngineSetup& other) const {
  const auto *const value = std::get_if<at::Tensor>(&neutral), *const its = std::get_if<at::Tensor>(&other.neutral);
  const bool is_same_neutral = value != nullptr && its != nullptr && value->is_same(*its);  // others are not compiled
  return layouts == other.layouts && is_same_neutral && feeds_probabilities() == other.feeds_probabilities();
}

Method EngineSetup::method(const std::optional<InDims>& in_dims) const {
  const auto& [embedder, embed, combine, distance] = functions;
  const bool is_named = !distance.name.empty();
  const bool is_plain = embedder != nullptr && embedder->is_plain();
  Method method{
      embed, combine, is_named ? distance_by_name(distance.name, layouts.prediction) : distance,
      /*takes_any_layout=*/is_plain && combine == nullptr, neutral};
  if (combine == nullptr) {
    method.combine = [layout = layouts.features](const at::Tensor& features, const at::Tensor& embedding) {
      return broadcast_add(features, embedding, layout);
    };
  }
  if (is_plain && embedder->is_built()) {
    const EmbedderWeights weights = embedder->weights();
    method.embed = [weights, where = layouts](const at::Tensor& prediction, const at::Tensor& features) {
      return it3::embed(prediction, features, weights, where.prediction, where.features);
    };
    if (combine == nullptr && is_named) {
      method.reads.emplace();
      if (weights.are_learned()) method.reads = {weights.weight1, weights.bias1, weights.weight2, weights.bias2};
    }
  } else if (embedder != nullptr) {
    method.embed = [lazy = embedder](const at::Tensor& prediction, const at::Tensor& features) {
      return (*lazy)(prediction, features);
    };
  }
  method.prediction_layout = layouts.prediction;
  method.feeds_probabilities = feeds_probabilities();
  method.in_dims = in_dims;
  return method;
}

}  // namespace it3
