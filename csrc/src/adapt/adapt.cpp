#include <it3/adapt.h>

#include <ATen/ATen.h>

#include "adapt/adapt_once.h"
#include "adapt/per_sample.h"
#include "adapt/program_evaluation.h"
#include "support/without_cudnn.h"

namespace it3 {

Adaptation adapt(const AdaptCall& call) {
  call.options.validate();
  const auto turn = call.network.take_turn();
  const auto parameters = call.network.parameters();
  // Whoever keeps adapted weights writes them into the model, whatever the kind of network, when nobody reads it.
  const auto use = call.online != nullptr ? UpgradeMutex::Use::updating : UpgradeMutex::Use::reading;
  const auto turn_with_weights = call.network.lock_on(tensors_of(parameters)).wait(use);
  const auto once = [&] {
    const auto adapt_by = call.options.per_sample ? detail::adapt_per_sample : detail::adapt_once;
    try {
      return adapt_by(call, parameters);
    } catch (const detail::ProgramError&) {
      return adapt_by(call, parameters);  // by passes, which raise what is to be raised
    }
  };
  const auto labelled = [&](Adaptation result) {
    result.prediction_layout = call.method.prediction_layout;
    result.feeds_probabilities = call.method.feeds_probabilities;
    return result;
  };
  if (!call.network.runs_without_cudnn()) {
    try {
      return labelled(once());
    } catch (const std::exception& error) {
      if (!detail::is_cudnn_in_eval_mode(error)) throw;
      call.network.run_without_cudnn();
    }
  }
  const detail::WithoutCudnn without_cudnn;
  return labelled(once());
}

}  // namespace it3
