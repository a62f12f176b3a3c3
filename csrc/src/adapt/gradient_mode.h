#pragma once

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "support/no_saved_tensor_hooks.h"

namespace it3::detail {

/// Adaptation differentiates, whatever mode the caller is in.
struct GradientMode {
  c10::InferenceMode no_inference{false};
  at::AutoGradMode with_gradients{true};
  NoSavedTensorHooks no_hooks;
};

}  // namespace it3::detail
