#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/training_recipe.h>

namespace it3 {

/// The parts of the loss of one training step, attached to autograd's graph.
struct Losses {
  /// y0 = f(x), in the model's shape and dtype: apply your own criterion to it, which gives the first term of the loss.
  /// With a neutral signal or FirstSignal::drawn, y0 = f(x | s) with the signal s.
  at::Tensor prediction;
  /// The second term of the loss, a scalar: TrainingRecipe::weight times distance(y1, target), where y1 = f(x | s) and
  /// TrainingRecipe::second_pass chooses s. Without a target it is weight times distance(y1, y0), and y0 is fed back. 0
  /// with SecondPass::none.
  at::Tensor loss_ttt;
  /// Whether the targets were class indices, which are fed back as one-hot vectors.
  bool has_class_targets = false;
};

/// The two terms of ZigZag's training loss, L = d(f(x, 0), y) + d(f(x, y), y) (arXiv 2410.04201, Eq. 1), on the
/// network's own weights. Only the first pass updates running statistics. Engine::losses() is this function with the
/// parts that an engine holds.
///
/// @param network  the network, in the mode that it is to be trained in
/// @param method  embedder, combination, distance and neutral signal
/// @param inputs  one batch
/// @param target  in the prediction's shape; or class indices, integers in that shape without the channel dimension,
///                which are made one-hot
/// @param recipe  what is fed back in both passes
/// @param is_feedback_open  whether to feed back class probabilities if targets are class indices and predictions are
///                          not probabilities themselves; see Feedback::automatic
/// @throws c10::ValueError  if the target does not fit the prediction, naming both shapes; if the neutral signal could
///                          be a label; if the recipe draws from targets and there is no target; and where
///                          TrainingRecipe::validate() does
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Method method{
///     .embed = [](const at::Tensor& target, const at::Tensor&) { return target.mean(1, true); },
///     .combine = [](const at::Tensor& features, const at::Tensor& embedding) { return features + embedding; },
///     .distance = it3::distance_by_name("mse")};
/// it3::Losses losses = it3::training_losses(network, method, it3::Inputs(x), y);
/// (torch::mse_loss(losses.prediction, y) + losses.loss_ttt).backward();
/// @endcode
IT3_API Losses training_losses(
    Network& network,
    const Method& method,
    const Inputs& inputs,
    const std::optional<at::Tensor>& target = {},
    const TrainingRecipe& recipe = {},
    bool is_feedback_open = false);

/// Whether a target holds class indices for this prediction: integers in the prediction's shape without its channel
/// dimension, where that has two or more channels.
///
/// @code{.cpp}
/// at::Tensor logits = torch::randn({8, 3});
/// assert(it3::are_class_indices(classes, logits));  // (8,) of int64
/// at::Tensor one_hot = it3::fit_target(classes, logits);
/// assert(one_hot.sizes() == logits.sizes() && one_hot.sum().item<double>() == 8);
/// @endcode
IT3_API bool are_class_indices(
    const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout = {});

/// The target in the prediction's shape, dtype and device, as training_losses() feeds it back and compares with it.
/// Class indices become one-hot vectors; dimensions of size 1 may be missing.
///
/// @throws c10::ValueError  naming both shapes, if the target does not fit; and for class indices out of range
IT3_API at::Tensor fit_target(
    const at::Tensor& target, const at::Tensor& prediction, const Layout& prediction_layout = {});

}  // namespace it3
