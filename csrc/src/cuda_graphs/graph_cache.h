#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>

#include <c10/core/Event.h>

#include <it3/adaptation.h>

#include "cuda_graphs/device_graph.h"
#include "cuda_graphs/graph_key.h"

namespace it3::detail {

/// What the inner loop comes to.
struct LoopOutcome {
  Adaptation result;
  at::Tensor report;     // which of its numbers are finite; undefined if nothing was computed
  at::Tensor unadapted;  // the first prediction before the first step; undefined where a graph was replayed
};

class GraphCache {
 public:
  using Work = std::function<LoopOutcome(const Inputs& inputs)>;

  /// What `work` gives. Calls with equal keys must do the same operations on the same memory, beside that of the
  /// inputs.
  LoopOutcome run(const GraphKey& key, const Inputs& inputs, const Work& work);

 private:
  struct Entry {
    explicit Entry(GraphKey known_key) : key(std::move(known_key)) {}

    GraphKey key;
    bool has_failed = false;
    Inputs inputs;        // that the graph reads
    LoopOutcome outcome;  // that it writes
    std::unique_ptr<DeviceGraph> graph;
  };

  static constexpr std::size_t most = 4;  // each keeps the memory of a call

  void record(Entry& entry, const Inputs& inputs, const Work& work);
  LoopOutcome replay(Entry& entry, const Inputs& inputs);

  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
  std::map<c10::DeviceIndex, c10::Event> last_replayed_;
};

}  // namespace it3::detail
