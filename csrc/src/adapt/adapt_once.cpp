#include "adapt/adapt_once.h"

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/backend/online.h>
#include <it3/backend/selection.h>

#include "adapt/finite_check.h"
#include "adapt/gradient_mode.h"
#include "adapt/inner_loop.h"
#include "adapt/online_guard.h"
#include "cuda_graphs/graph_cache.h"
#include "method/functions_apart.h"
#include "network/pass_inputs.h"
#include "support/mixed_precision.h"
#include "support/random_state_guard.h"

namespace it3::detail {
namespace {

/// The inner loop, or its replay if a like call was recorded.
LoopResult run_or_replay(
    const AdaptCall& call,
    const std::vector<NamedParameter>& adapted,
    PassInputs& pass_inputs,
    Online::CallState state) {
  const bool may_be_recorded =
      call.graphs != nullptr && call.online == nullptr && !adapted.empty() && adapted.front().tensor.is_cuda();
  if (may_be_recorded) {
    const auto key = graph_key(call.network, call.method, call.options, call.inputs, call.with_details, call.samples);
    if (const auto* known = std::get_if<GraphKey>(&key)) {
      LoopResult loop;
      loop.outcome = call.graphs->cache().run(*known, call.inputs, [&](const Inputs& static_inputs) {
        PassInputs static_pass_inputs(static_inputs, static_inputs, /*may_be_written=*/false);
        return inner_loop(call.with(call.method, static_inputs), adapted, static_pass_inputs, {}).outcome;
      });
      return loop;
    }
  }
  return inner_loop(call, adapted, pass_inputs, std::move(state));
}

/// Adapts once more, from the start, where the network had collapsed. If that fails, all is as it was before.
Adaptation recover(const AdaptCall& call, const std::vector<NamedParameter>& parameters) {
  std::vector<at::Tensor> weights;
  weights.reserve(parameters.size());
  for (const auto& p : parameters) weights.push_back(p.tensor.detach().clone());
  const Online::State state = call.online->state();
  call.online->reset(call.network);
  try {
    Adaptation result = adapt_once(call, parameters);
    result.recovered = true;
    return result;
  } catch (...) {
    call.online->go_back(call.network, state, weights);
    throw;
  }
}

/// Raises c10::ValueError for what is not finite, with its cause.
[[noreturn]] void refuse(const std::string& problem, const AdaptCall& call) {
  const std::string cause = call.samples ? "" : blame_samples(call);
  TORCH_CHECK_VALUE(
      false, problem, cause, "; the weights are unchanged. ",
      cause.empty()
          ? "Check the inputs for NaN and infinity, or lower lr, or set max_grad_norm"
          : "Check these samples for NaN and infinity, or set threshold, which leaves such samples as they are");
}

}  // namespace

Adaptation adapt_once(const AdaptCall& given, const std::vector<NamedParameter>& parameters) {
  const GradientMode gradient_mode;
  const Options& options = given.options;
  const auto device = parameters.empty() ? at::kCPU : parameters.front().tensor.device().type();
  const MixedPrecision mixed_precision(options.amp, device);
  const auto adapted =
      options.num_steps > 0 ? select_parameters(parameters, options.parameters) : std::vector<NamedParameter>{};
  const Inputs inputs = as_constants(given.inputs);
  std::optional<Method> apart;
  if (given.network.swaps_weights() && !adapted.empty()) apart = functions_apart(given.method, adapted);
  const AdaptCall call = given.with(apart ? *apart : given.method, inputs);
  const RandomStateGuard random_state(tensors_of(parameters));

  Online* const online = call.online;
  OnlineGuard online_guard(online);
  Online::CallState state;
  if (online != nullptr && !adapted.empty()) state = online->resume(adapted, options.optimizer_name);
  PassInputs pass_inputs(given.inputs, inputs, call.network.may_write_inputs());
  LoopResult loop = run_or_replay(call, adapted, pass_inputs, std::move(state));
  Adaptation& result = loop.outcome.result;
  const bool has_moved = result.steps() > 0;

  const std::string problem = what_is_not_finite(loop.outcome, call.first_sample);
  std::optional<double> watched;
  if (online != nullptr && options.recovery_factor && has_moved) {
    watched = result.losses[0].item<double>();
    const bool has_collapsed = !problem.empty() || online->has_collapsed(*watched, *options.recovery_factor);
    if (has_collapsed && online->has_moved()) {
      loop.weights.reset();
      online_guard.keep();
      return recover(given, parameters);
    }
  }
  if (!problem.empty()) {
    loop.weights.reset();
    refuse(problem, call);
  }
  if (online != nullptr && has_moved) {
    const auto alone = call.network.lock_on(tensors_of(parameters)).wait(UpgradeMutex::Use::alone);
    loop.weights->commit();
    loop.weights.reset();
    online->keep(adapted, std::move(loop.state), watched);
    online_guard.keep();
  }
  loop.weights.reset();
  pass_inputs.finish();
  return std::move(result);
}

}  // namespace it3::detail
