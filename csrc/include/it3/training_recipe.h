#pragma once

#include <optional>
#include <string_view>

#include <it3/backend/export.h>

namespace it3 {

/// What is fed back in the first pass of a training step, which gives y0.
///
/// - neutral: the neutral signal, or nothing if there is none, as at test time.
/// - drawn: the target with TrainingRecipe::target_probability, else the same as with `neutral`. The programs of the
///   paper's authors do so.
enum class FirstSignal { neutral, drawn };

/// The FirstSignal of a name: that of the enumerator.
///
/// @throws c10::ValueError  for an unknown name
IT3_API FirstSignal first_signal_by_name(std::string_view name);
/// The name of a FirstSignal.
IT3_API std::string_view to_string(FirstSignal first_pass);

/// What is fed back in the second pass of a training step, which gives y1.
///
/// - target: y1 = f(x | y), as in ZigZag's loss (arXiv 2410.04201, Eq. 1).
/// - prediction: y1 = f(x | y0), as at test time; gradients flow through y0.
/// - detached_prediction: the same with y0 as a constant.
/// - drawn: the target with TrainingRecipe::target_probability, else y0 as a constant.
/// - none: there is no second pass, and the second term of the loss is 0.
enum class SecondPass { target, prediction, detached_prediction, drawn, none };

/// The SecondPass of a name: that of the enumerator.
///
/// @throws c10::ValueError  for an unknown name
IT3_API SecondPass second_pass_by_name(std::string_view name);
/// The name of a SecondPass.
IT3_API std::string_view to_string(SecondPass second_pass);

/// Whether one draw decides for each sample separately, or for the whole batch.
enum class DrawnFor { sample, batch };

/// The DrawnFor of a name: that of the enumerator.
///
/// @throws c10::ValueError  for an unknown name
IT3_API DrawnFor drawn_for_by_name(std::string_view name);
/// The name of a DrawnFor.
IT3_API std::string_view to_string(DrawnFor drawn_for);

/// What is fed back in the passes of a training step, and how much the second term of the loss counts; see
/// training_losses(). The default is the paper's loss.
///
/// @code{.cpp}
/// engine.set_neutral(torch::tensor(-50.0));
/// engine.training_recipe = {
///     .first_pass = it3::FirstSignal::drawn, .second_pass = it3::SecondPass::none, .target_probability = 0.3};
/// engine.training_recipe.validate();
/// it3::Losses losses = engine.losses(x, y);
/// assert(losses.loss_ttt.item<double>() == 0);
/// @endcode
struct IT3_API TrainingRecipe {
  /// What is fed back in the first pass.
  FirstSignal first_pass = FirstSignal::neutral;
  /// What is fed back in the second pass.
  SecondPass second_pass = SecondPass::target;
  /// The factor of the second term, 0 or more.
  double weight = 1;
  /// For `drawn`: the probability of the target, from 0 to 1. Unset: 0.5.
  std::optional<double> target_probability = std::nullopt;
  /// For `drawn`: what a draw decides for. Unset: each sample; but the whole batch where the alternative to the target
  /// is that nothing is injected, since then all samples have to be alike.
  std::optional<DrawnFor> drawn_for = std::nullopt;
  /// Standard deviation of the Gaussian noise that is added to what is fed back, 0 or more: in the units of
  /// predictions, or of probabilities where those are fed back.
  double noise = 0;

  /// Whether all parts are equal.
  bool operator==(const TrainingRecipe&) const = default;

  /// Whether a target is drawn for one of the passes.
  bool draws() const { return first_pass == FirstSignal::drawn || second_pass == SecondPass::drawn; }

  /// Checks the numbers, and that nothing is set that has no effect: `target_probability` and `drawn_for` without a
  /// draw, `weight` without a second term, `noise` without anything that is fed back.
  ///
  /// @throws c10::ValueError  if a check fails
  void validate() const;
};

}  // namespace it3
