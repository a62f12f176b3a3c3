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
/// Compiled programs, each for one kind of call.
using CompiledKinds = std::vector<std::shared_ptr<const Compiled>>;

/// The arguments of one call of adapt(). It borrows everything that it refers to: all of that has to outlive the call.
struct AdaptCall {
  /// The network that adapts.
  Network& network;
  /// Embedder, combination, distance and neutral signal.
  const Method& method;
  /// How to adapt.
  const Options& options;
  /// What the network is called with.
  const Inputs& inputs;
  /// Where adapted weights and optimizer state are kept for the next call. Null: the network is afterwards as before.
  Online* online = nullptr;
  /// Whether to fill Adaptation::second and Adaptation::weights too.
  bool with_details = false;
  /// Where CUDA graphs of calls with this network and method are kept. Null: none are recorded.
  Graphs* graphs = nullptr;
  /// Compiled programs that may replace the network's passes; the first one that suits the call is used. Null: none.
  const CompiledKinds* compiled = nullptr;
  /// For internal use; callers set Options::per_sample instead. The number of samples that are stacked in the inputs
  /// and adapt weights of their own, see Network::checkout_per_sample().
  std::optional<std::int64_t> samples = std::nullopt;
  /// For internal use: the position of the first sample in a larger batch, for error messages.
  std::int64_t first_sample = 0;

  /// The same call with another method and other inputs.
  AdaptCall with(const Method& other, const Inputs& others) const {
    return {network, other, options, others, online, with_details, graphs, compiled, samples, first_sample};
  }
};

/// The inner loop of IT3: takes up to Options::num_steps optimizer steps on the loss distance(y1, y0), with y0 = f(x)
/// and y1 = F(x | y0) (Durasov et al., arXiv 2410.04201; Options::anchor chooses F), and then predicts. Engine::adapt()
/// is this function with the parts that an engine holds.
///
/// The result does not depend on the caller's grad, inference and autocast modes. If anything throws, the network is
/// unchanged.
///
/// @throws c10::ValueError  if no parameter can adapt; if a loss or the prediction is not finite; and if options
///                          exclude one another or do not suit the network
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::EmbedderWeights weights = it3::make_embedder_weights(y, torch::zeros({8, 64}));
/// it3::Method method{
///     .embed = [&](const at::Tensor& y0, const at::Tensor& features) { return it3::embed(y0, features, weights); },
///     .combine = [](const at::Tensor& features, const at::Tensor& e) { return it3::broadcast_add(features, e); },
///     .distance = it3::distance_by_name("mse")};
/// it3::Options options{.num_steps = 2, .lr = 1e-4};
/// it3::Inputs inputs(x);  // (8, 13)
/// it3::Adaptation adapted =
///     it3::adapt({.network = network, .method = method, .options = options, .inputs = inputs});
/// assert(adapted.prediction.sizes() == y.sizes() && adapted.steps() == 2);
/// @endcode
IT3_API Adaptation adapt(const AdaptCall& call);

}  // namespace it3
