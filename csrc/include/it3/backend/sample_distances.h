#pragma once

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>

namespace it3 {

/// The distance ‖y1 − y0‖ of each sample, (B,): the Euclidean norm over all other dimensions, in float32 or a wider
/// dtype and in the units of the predictions. It is not finite for samples whose predictions are not.
///
/// @param second  y1
/// @param first  y0, of the same shape
/// @param layout  which dimensions of predictions are samples and channels; a prediction without dimensions is one
/// sample
/// @param of_probabilities  whether to measure ‖softmax(y1) − softmax(y0)‖ over the channels instead. Use it for
///     logits: they differ most where they are large, which is where a network is sure, so that their own distance does
///     not measure uncertainty
/// @throws c10::ValueError  if `of_probabilities` is true and there is only one class
///
/// @code{.cpp}
/// at::Tensor y0 = torch::zeros({2, 4}), y1 = torch::ones({2, 4});
/// at::Tensor distances = it3::sample_distances(y1, y0);
/// assert(distances.eq(2).all().item<bool>());  // (2,)
/// @endcode
IT3_API at::Tensor sample_distances(
    const at::Tensor& second, const at::Tensor& first, const Layout& layout = {}, bool of_probabilities = false);

}  // namespace it3
