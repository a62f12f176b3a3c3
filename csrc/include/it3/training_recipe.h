#pragma once

#include <optional>
#include <string_view>

#include <it3/backend/export.h>

namespace it3 {

/// What the second pass of a training step is fed with.
///
/// - target: y1 = f(x | y), as in ZigZag's loss (IT3, arXiv 2410.04201, Eq. 1).
/// - prediction: y1 = f(x | y0), as at test time; gradients flow through y0.
/// - detached_prediction: the same, with y0 as a constant.
/// - drawn: each sample's target with a probability, else y0 as a constant.
/// - none: there is one pass, f(x | s), as in the authors' programs: s is the target with a probability, else the
///   neutral signal, or nothing is injected.
enum class SecondPass { target, prediction, detached_prediction, drawn, none };

/// SecondPass by its name, and back. Raises c10::ValueError for another name.
IT3_API SecondPass second_pass_by_name(std::string_view name);
IT3_API std::string_view to_string(SecondPass second_pass);

/// For what a draw between signals is made: for each sample, or for the whole batch.
enum class DrawnFor { sample, batch };

/// DrawnFor by its name, and back. Raises c10::ValueError for another name.
IT3_API DrawnFor drawn_for_by_name(std::string_view name);
IT3_API std::string_view to_string(DrawnFor drawn_for);

/// How the second term of the training loss is made; see training_losses().
struct IT3_API TrainingRecipe {
  SecondPass second_pass = SecondPass::target;
  /// The second term is multiplied by it.
  double weight = 1;
  /// Of SecondPass::drawn and none: how probable the target is. Nothing: 0.5.
  std::optional<double> target_probability = std::nullopt;
  /// Of SecondPass::drawn and none. Nothing: for each sample; for the batch where the other choice is that nothing is
  /// injected, which samples cannot differ in.
  std::optional<DrawnFor> drawn_for = std::nullopt;
  /// Standard deviation of the Gaussian noise on what is fed back, in the units of predictions, or of probabilities
  /// where those are fed back.
  double noise = 0;

  bool operator==(const TrainingRecipe&) const = default;

  /// Raises c10::ValueError for numbers out of range, and for what says more about a draw where there is none.
  void validate() const;
};

}  // namespace it3
