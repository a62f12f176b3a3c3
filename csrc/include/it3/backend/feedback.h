#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// What is fed back into the network: class probabilities, or the prediction y0 as it is.
///
/// - automatic: softmax(y0) if the distance compares class distributions, or if the engine was trained with class
///   indices on predictions that are not probabilities themselves; else y0. What is fed back at test time is then of
///   the same kind as the labels that were fed back in training.
/// - probabilities: softmax(y0) over the classes.
/// - prediction: y0 as it is, as in torch-ttt.
///
/// @code{.cpp}
/// engine.feedback = it3::feedback_by_name("prediction");
/// assert(engine.explain(x).fed_back == "y0");
/// engine.feedback = it3::Feedback::probabilities;
/// assert(engine.explain(x).fed_back == "softmax(y0)");
/// @endcode
enum class Feedback { automatic, probabilities, prediction };

/// The Feedback of a name: "auto", "probabilities" or "prediction".
///
/// @throws c10::ValueError  for an unknown name
IT3_API Feedback feedback_by_name(std::string_view name);
/// The name of a Feedback.
IT3_API std::string_view to_string(Feedback feedback);

/// softmax(prediction) over the channels.
///
/// @throws c10::ValueError  if there is only one channel, for which softmax would always be 1
///
/// @code{.cpp}
/// at::Tensor logits = torch::randn({8, 3});
/// at::Tensor probabilities = it3::class_probabilities(logits);
/// assert(it3::are_probabilities(probabilities) && !it3::are_probabilities(logits));
/// @endcode
IT3_API at::Tensor class_probabilities(const at::Tensor& prediction, const Layout& layout = {});

/// Whether predictions are class probabilities already: none is below 0, and they sum to 1 over the channels, to within
/// 0.01.
IT3_API bool are_probabilities(const at::Tensor& prediction, const Layout& layout = {});

}  // namespace it3
