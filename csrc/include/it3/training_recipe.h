#pragma once

#include <optional>
#include <string_view>

#include <it3/backend/export.h>

namespace it3 {

/// What the first pass of a training step, y0, is fed with.
///
/// - neutral: as at test time: the neutral signal, or nothing where there is none.
/// - drawn: each sample's target with a probability, else as above; so in the authors' programs.
enum class FirstSignal { neutral, drawn };

/// FirstSignal by its name, and back. Raises c10::ValueError for another name.
IT3_API FirstSignal first_signal_by_name(std::string_view name);
IT3_API std::string_view to_string(FirstSignal first_pass);

/// What the second pass of a training step, y1, is fed with.
///
/// - target: y1 = f(x | y), as in ZigZag's loss (IT3, arXiv 2410.04201, Eq. 1).
/// - prediction: y1 = f(x | y0), as at test time; gradients flow through y0.
/// - detached_prediction: the same, with y0 as a constant.
/// - drawn: each sample's target with a probability, else y0 as a constant.
/// - none: there is no second pass, and no second term.
enum class SecondPass { target, prediction, detached_prediction, drawn, none };

/// SecondPass by its name, and back. Raises c10::ValueError for another name.
IT3_API SecondPass second_pass_by_name(std::string_view name);
IT3_API std::string_view to_string(SecondPass second_pass);

/// For what a draw between signals is made: for each sample, or for the whole batch.
enum class DrawnFor { sample, batch };

/// DrawnFor by its name, and back. Raises c10::ValueError for another name.
IT3_API DrawnFor drawn_for_by_name(std::string_view name);
IT3_API std::string_view to_string(DrawnFor drawn_for);

/// What the passes of a training step are fed with, and how the second term of the loss counts; see training_losses().
struct IT3_API TrainingRecipe {
  FirstSignal first_pass = FirstSignal::neutral;
  SecondPass second_pass = SecondPass::target;
  /// The second term is multiplied by it.
  double weight = 1;
  /// Where something is drawn: how probable the target is. Nothing: 0.5.
  std::optional<double> target_probability = std::nullopt;
  /// Where something is drawn. Nothing: for each sample; for the batch where the other choice is that nothing is
  /// injected, which samples cannot differ in.
  std::optional<DrawnFor> drawn_for = std::nullopt;
  /// Standard deviation of the Gaussian noise on what is fed back, in the units of predictions, or of probabilities
  /// where those are fed back.
  double noise = 0;

  bool operator==(const TrainingRecipe&) const = default;

  /// Whether a target is drawn for one of the passes.
  bool draws() const { return first_pass == FirstSignal::drawn || second_pass == SecondPass::drawn; }

  /// Raises c10::ValueError for numbers out of range, and for what says more about a draw where there is none.
  void validate() const;
};

}  // namespace it3
