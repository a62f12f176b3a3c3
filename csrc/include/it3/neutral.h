#pragma once

#include <functional>
#include <variant>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// A neutral signal that is drawn: for each sample and position one class, all equally probable, as a one-hot vector
/// over the channels.
struct RandomOneHot {};

/// A neutral signal that is drawn: for each sample one of these labels, all equally probable.
struct DrawnLabels {
  /// (N, ...): class indices, or labels in the shape of a prediction. The labels lie along dimension 0.
  at::Tensor labels;
};

/// A function that returns the neutral signal for a batch, given the batch's prediction. The signal has the shape of
/// the prediction, or broadcasts to it.
using NeutralFunction = std::function<at::Tensor(const at::Tensor& prediction)>;

/// The signal that stands for "no prediction yet": y0 = f(x | combine(features, embed(neutral))), as in ZigZag, the
/// training of IT3 (arXiv 2410.04201, Eq. 1).
///
/// - A tensor: a number, or a tensor that broadcasts to the prediction's shape, in the units of the prediction. It has
///   to lie outside of the labels. An undefined tensor means that there is no neutral signal: y0 = f(x).
/// - A RandomOneHot, a DrawnLabels or a function: drawn once for each call, by torch's random generator.
///
/// @code{.cpp}
/// engine.set_neutral(torch::tensor(-50.0));  // outside of the range of the labels
/// it3::Losses losses = engine.losses(x, y);
/// engine.set_neutral(it3::DrawnLabels{y});  // or it3::RandomOneHot(), of classes
/// at::Tensor prediction = engine.adapt(x).prediction;
/// engine.set_neutral(at::Tensor());  // none
/// assert(!it3::is_given(engine.neutral()));
/// @endcode
using Neutral = std::variant<at::Tensor, RandomOneHot, DrawnLabels, NeutralFunction>;

/// Whether there is a neutral signal: false for an undefined tensor only.
IT3_API bool is_given(const Neutral& neutral);

/// Checks a neutral signal.
///
/// @throws c10::ValueError  for a tensor that is empty, not real or not finite; for labels without a first dimension;
///                          and for a null function
///
/// @code{.cpp}
/// it3::check_neutral(torch::tensor({0.5, 0.5, 0.0}));  // broadcasts to predictions of shape (B, 3)
/// bool is_refused = false;
/// try {
///   it3::check_neutral(torch::tensor(NAN));
/// } catch (const c10::ValueError& error) {
///   is_refused = true;
/// }
/// assert(is_refused);
/// @endcode
IT3_API void check_neutral(const Neutral& neutral);

}  // namespace it3
