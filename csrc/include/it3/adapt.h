#pragma once

#include <it3/adaptation.h>
#include <it3/backend/export.h>
#include <it3/backend/graphs.h>
#include <it3/backend/online.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

/// The inner loop of IT3: up to `num_steps` optimizer steps on distance(y1, y0), then the prediction.
///
/// Works whatever the caller's grad, inference and autocast modes. Whatever is thrown by a part, the network is as it
/// was.
///
/// @param online  where adapted weights and optimizer state are kept; null for a call that leaves no trace
/// @param with_details  whether to give Adaptation::second and weights too
/// @param graphs  where recordings of calls by this network and method are kept; null for none
///
/// Raises c10::ValueError if no parameter can adapt, or if losses or the prediction are not finite.
IT3_API Adaptation adapt(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    Online* online = nullptr,
    bool with_details = false,
    Graphs* graphs = nullptr);

}  // namespace it3
