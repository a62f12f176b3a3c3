#pragma once

#include <memory>

#include <torch/csrc/jit/api/module.h>

#include <it3/backend/inputs.h>

#include "torchscript/script_cut.h"

namespace it3::detail {

/// Compares what a cut gives with what the module's forward() gives as it stands, the prediction and its gradients by
/// the parameters, from one state: once for each kind of inputs. Neither the module nor the inputs are written to.
/// Where forward() draws random numbers, or raises an exception, there is nothing to compare.
///
/// @param are_stacked  whether the inputs are those of several samples, for a cut that was made for weights of each
///
/// Raises c10::ValueError if they differ, or if the prediction does not depend on the layer's output.
void compare_once(
    const torch::jit::Module& module,
    const std::shared_ptr<const ScriptCut>& cut,
    const Inputs& inputs,
    bool are_stacked = false);

}  // namespace it3::detail
