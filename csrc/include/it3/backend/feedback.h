#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// What is fed back into the network as its first prediction, y0.
///
/// - automatic: class probabilities where the distance is one between distributions, or where the engine was trained by
///   class indices on predictions that are no probabilities by themselves; else the prediction. What is fed back at
///   test time is then of a kind with the labels that were fed in training.
/// - probabilities: softmax(y0) over the classes.
/// - prediction: y0 as it is, as in torch-ttt.
enum class Feedback { automatic, probabilities, prediction };

/// Feedback by its name, "auto", "probabilities" or "prediction", and back. Raises c10::ValueError for another name.
IT3_API Feedback feedback_by_name(std::string_view name);
IT3_API std::string_view to_string(Feedback feedback);

/// softmax(prediction) over the channels; raises c10::ValueError where there is one channel only, of which it would
/// always make 1.
IT3_API at::Tensor class_probabilities(const at::Tensor& prediction, const Layout& layout = {});

/// Whether predictions are class probabilities by themselves: none is below 0, and they sum to 1 over the channels.
IT3_API bool are_probabilities(const at::Tensor& prediction, const Layout& layout = {});

}  // namespace it3
