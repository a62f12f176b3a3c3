#include <it3/training_recipe.h>

#include <algorithm>
#include <array>
#include <cmath>

#include <c10/util/Exception.h>

#include "support/nearest_name.h"

namespace it3 {
namespace {

constexpr std::array<std::string_view, 2> first_signal_names = {"neutral", "drawn"};
constexpr std::array<std::string_view, 5> second_pass_names = {
    "target", "prediction", "detached_prediction", "drawn", "none"};
constexpr std::array<std::string_view, 2> drawn_for_names = {"sample", "batch"};

/// The place of a name among others.
template <typename Names>
std::size_t place_of(const Names& names, const char* what, std::string_view name) {
  const auto found = std::find(names.begin(), names.end(), name);
  TORCH_CHECK_VALUE(found != names.end(), what, " must be one of ", detail::join(names), ", not '", name, "'");
  return static_cast<std::size_t>(found - names.begin());
}

}  // namespace

FirstSignal first_signal_by_name(std::string_view name) {
  return static_cast<FirstSignal>(place_of(first_signal_names, "first_pass", name));
}

std::string_view to_string(FirstSignal first_pass) {
  return first_signal_names.at(static_cast<std::size_t>(first_pass));
}

SecondPass second_pass_by_name(std::string_view name) {
  return static_cast<SecondPass>(place_of(second_pass_names, "second_pass", name));
}

std::string_view to_string(SecondPass second_pass) {
  return second_pass_names.at(static_cast<std::size_t>(second_pass));
}

DrawnFor drawn_for_by_name(std::string_view name) {
  return static_cast<DrawnFor>(place_of(drawn_for_names, "drawn_for", name));
}

std::string_view to_string(DrawnFor drawn_for) { return drawn_for_names.at(static_cast<std::size_t>(drawn_for)); }

void TrainingRecipe::validate() const {
  const auto is_from_zero = [](double value) { return std::isfinite(value) && value >= 0; };
  TORCH_CHECK_VALUE(is_from_zero(weight), "weight must be a number, 0 or more, not ", weight);
  TORCH_CHECK_VALUE(is_from_zero(noise), "noise must be a standard deviation, 0 or more, not ", noise);
  if (target_probability) {
    TORCH_CHECK_VALUE(
        *target_probability >= 0 && *target_probability <= 1, "target_probability must be a number from 0 to 1, not ",
        *target_probability);
  }
  TORCH_CHECK_VALUE(
      draws() || (!target_probability && !drawn_for), target_probability ? "target_probability" : "drawn_for",
      " says how targets are drawn, but first_pass='", to_string(first_pass), "' and second_pass='",
      to_string(second_pass), "' draw none; give 'drawn' for one of the two, or leave ",
      target_probability ? "target_probability" : "drawn_for", " out");
  TORCH_CHECK_VALUE(
      second_pass != SecondPass::none || weight == 1,
      "weight multiplies the second term of the loss, but second_pass='none' has no such term; leave weight out");
  TORCH_CHECK_VALUE(
      noise == 0 || second_pass != SecondPass::none || first_pass == FirstSignal::drawn,
      "noise is added to what is fed back, but with first_pass='neutral' and second_pass='none' nothing is fed back; "
      "leave noise out");
}

}  // namespace it3
