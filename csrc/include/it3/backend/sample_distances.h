#pragma once

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// ‖y1 − y0‖, the Euclidean norm over all that is not the batch, of each sample: (B,), in float32 or wider. Not
/// finite for samples whose predictions are not.
///
/// @param layout  where predictions have their samples and their classes; those without dimensions are one sample
/// @param of_probabilities  whether it is ‖softmax(y1) − softmax(y0)‖ over the classes. Logits differ most where they
///        are large, which is where a network is sure, so that their own distance is no uncertainty. Raises
///        c10::ValueError where there is one class only.
IT3_API at::Tensor sample_distances(
    const at::Tensor& second, const at::Tensor& first, const Layout& layout = {}, bool of_probabilities = false);

}  // namespace it3
