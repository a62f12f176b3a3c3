#pragma once

#include <it3/backend/layout.h>
#include <it3/method.h>
#include <it3/network.h>

#include "network/pass_inputs.h"

namespace it3::detail {

/// Method::neutral in the shape of this batch's prediction, which a plain pass without gradients tells; undefined if
/// the method has none. Raises c10::ValueError, naming both shapes, if it does not spread over the prediction.
///
/// @param are_stacked  whether predictions are those of samples by themselves, see Network::checkout_per_sample()
at::Tensor neutral_signal(TwoPass& network, const Method& method, PassInputs& inputs, bool are_stacked = false);

/// Raises c10::ValueError if the neutral signal could be a label: then the network could not tell "no prediction yet"
/// from a prediction. Labels of 0 and 1 can be 0s and 1s, with one 1 among the channels if all have one; others, what
/// lies in the range of each channel.
void check_is_no_label(const at::Tensor& neutral, const at::Tensor& labels, const Layout& layout);

}  // namespace it3::detail
