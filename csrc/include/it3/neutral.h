#pragma once

#include <functional>
#include <variant>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// One of the classes, all as probable, for each sample and position: 1 in its channel, 0 in the others.
struct RandomOneHot {};

/// One of these labels for each sample, all as probable.
struct DrawnLabels {
  /// (N, ...): class indices, or labels in the shape of a prediction, samples first.
  at::Tensor labels;
};

/// A function that gives the signals for a batch, in the shape of its prediction, which it is given.
using NeutralFunction = std::function<at::Tensor(const at::Tensor& prediction)>;

/// The signal that stands for "no prediction yet": y0 = f(x | combine(features, embed(neutral))).
///
/// A tensor: a number, or what spreads over the prediction's shape; an undefined one for none, y0 = f(x). The others
/// are drawn once for each call, by torch's random generator.
using Neutral = std::variant<at::Tensor, RandomOneHot, DrawnLabels, NeutralFunction>;

/// Whether there is one.
IT3_API bool is_given(const Neutral& neutral);

/// Raises c10::ValueError for a tensor that is anything but finite real numbers, for no labels, and for a null
/// function.
IT3_API void check_neutral(const Neutral& neutral);

}  // namespace it3
