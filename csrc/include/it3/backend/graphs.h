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

/// The CUDA graphs of adaptations by one network and method: a call like an earlier one (shapes, options, where weights
/// lie) is replayed as one graph, with the values that inputs and weights have now. The first such call runs as always,
/// the second is recorded. A few are kept, those that were used last. May be used from several threads.
class IT3_API Graphs {
 public:
  Graphs();
  ~Graphs();
  Graphs(Graphs&&) noexcept;
  Graphs& operator=(Graphs&&) noexcept;

  detail::GraphCache& cache() { return *cache_; }

  /// Why a call with these would never be recorded; empty if it would.
  static std::string why_not(
      const Network& network, const Method& method, const Options& options, const Inputs& inputs);

 private:
  std::unique_ptr<detail::GraphCache> cache_;
};

}  // namespace it3
