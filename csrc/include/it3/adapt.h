#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <it3/adaptation.h>
#include <it3/backend/export.h>
#include <it3/backend/graphs.h>
#include <it3/backend/online.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

class Compiled;
/// Programs for several kinds of calls.
using CompiledKinds = std::vector<std::shared_ptr<const Compiled>>;

/// One call of adapt(). Borrows all that it names.
struct AdaptCall {
  Network& network;
  const Method& method;
  const Options& options;
  const Inputs& inputs;
  /// Where adapted weights and optimizer state are kept; null for a call that leaves no trace.
  Online* online = nullptr;
  /// Whether to give Adaptation::second and weights too.
  bool with_details = false;
  /// Where recordings of calls by this network and method are kept; null for none.
  Graphs* graphs = nullptr;
  /// Programs that may take the place of the network's passes: the first that are for such a call. Null for none.
  const CompiledKinds* compiled = nullptr;
  /// For the core: so many samples, stacked in the inputs, each with weights of its own; see
  /// Network::checkout_per_sample(). A caller sets Options::per_sample.
  std::optional<std::int64_t> samples = std::nullopt;
  /// For the core: which sample of a larger batch the first one is, for errors.
  std::int64_t first_sample = 0;

  /// The same call by another method, for other inputs.
  AdaptCall with(const Method& other, const Inputs& others) const {
    return {network, other, options, others, online, with_details, graphs, compiled, samples, first_sample};
  }
};

/// The inner loop of IT3: up to `num_steps` optimizer steps on distance(y1, y0), then the prediction.
///
///     adapt({.network = network, .method = method, .options = options, .inputs = x})
///
/// Independent of the caller's grad, inference and autocast modes. If anything throws, the network is unchanged.
///
/// Raises c10::ValueError if no parameter can adapt, or if losses or the prediction are not finite.
IT3_API Adaptation adapt(const AdaptCall& call);

}  // namespace it3
