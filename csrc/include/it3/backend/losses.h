#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/training_recipe.h>

namespace it3 {

/// What a training step needs, attached to the graph.
struct Losses {
  /// y0 = f(x), for the user's own criterion: the first term of ZigZag's loss. With FirstSignal::drawn, f(x | s).
  at::Tensor prediction;
  /// The second term: distance(y1, target), times the recipe's weight, with y1 = f(x | s) and s as the recipe's
  /// SecondPass says. Without a target, distance(y1, y0), and y0 is fed back. 0 with SecondPass::none.
  at::Tensor loss_ttt;
  /// Whether the targets were class indices, which were embedded as one-hot probabilities.
  bool has_class_targets = false;
};

/// The two terms of ZigZag's training loss, L = d(f(x, 0), y) + d(f(x, y), y) (IT3, arXiv 2410.04201, Eq. 1), on the
/// network's own weights. Running statistics are updated by the first pass only.
///
/// @param target  of the prediction's shape, or class indices (the prediction's shape without its channel dimension),
///                which become one-hot
/// @param recipe  what the second pass is fed with, and more
/// @param is_feedback_open  whether class probabilities are fed back where targets turn out to be class indices, and
///                          predictions no probabilities by themselves; see Feedback::automatic
/// Raises c10::ValueError, naming both shapes, if the target does not fit the prediction; if the neutral signal could
/// be a label; for a recipe that draws from targets without a target, and one that validate() refuses.
IT3_API Losses training_losses(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const std::optional<at::Tensor>& target = {},
    const TrainingRecipe& recipe = {},
    bool is_feedback_open = false);

/// Whether a target holds class indices for such a prediction: whole numbers in the prediction's shape without its
/// channel dimension.
IT3_API bool are_class_indices(
    const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout = {});

/// The target in the prediction's shape and dtype, as training_losses() embeds it and compares with it.
IT3_API at::Tensor fit_target(
    const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout = {});

}  // namespace it3
