#pragma once

#include <memory>
#include <string>

#include <it3/backend/export.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

namespace detail {
class GraphCache;
}

/// The CUDA graphs of calls of adapt() with one network and method. A call is of the same kind as an earlier one if
/// shapes, options and the addresses of the weights are equal. The first call of a kind runs as always, the second is
/// recorded, and later ones replay the recording with the current values of inputs and weights. Only the few graphs
/// that were used last are kept. Several threads may share it.
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Method method{.distance = it3::distance_by_name("mse")};
/// std::string why = it3::Graphs::why_not(network, method, engine.options, it3::Inputs(x));
/// std::cout << "no CUDA graph: " << why << '\n';  // on a CPU, for example
/// @endcode
class IT3_API Graphs {
 public:
  /// Keeps no graphs yet.
  Graphs();
  ~Graphs();
  /// Moves the graphs.
  Graphs(Graphs&&) noexcept;
  /// Moves the graphs.
  Graphs& operator=(Graphs&&) noexcept;

  /// For internal use.
  detail::GraphCache& cache() { return *cache_; }

  /// Why a call with these arguments would never be recorded; empty if it would.
  static std::string why_not(
      const Network& network, const Method& method, const Options& options, const Inputs& inputs);

 private:
  std::unique_ptr<detail::GraphCache> cache_;
};

}  // namespace it3
