#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "faults/subject.h"

namespace it3::test {

/// A call of an engine.
struct Call {
  std::string name;
  std::function<std::vector<at::Tensor>(Subject&)> run;
  /// Brings a new subject to where the call starts.
  std::function<void(Subject&)> prepare;
  /// Whether it changes the subject if it succeeds, or what it does first is done once only.
  bool changes = false;
  /// What it may change although it fails.
  MayChange may_change = {};
};

/// The layouts and the embedder's shape are found out by an earlier call.
Call adapt_call(bool with_details = false);
/// By nobody before.
Call first_adapt_call();
Call first_losses_call();
/// With weights that are kept.
Call online_call();
/// With inputs at which the network that was adapted so far has collapsed, so that it goes back to its start.
Call collapsed_call();
Call uncertainty_call();
Call calibrate_call();
Call losses_call();
/// In train mode, with the backward pass.
Call training_call();
Call save_call();
Call save_adapted_call();
Call save_state_call();
Call load_state_call();
Call reset_call();

}  // namespace it3::test
