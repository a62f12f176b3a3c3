#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

#include "cuda_graphs/device_graph.h"

namespace it3::detail {

namespace {

struct NoWarnings : c10::WarningHandler {
  void process(const c10::Warning& /*warning*/) override {}
};

}  // namespace

struct DeviceGraph::Recording {
  struct Graph : at::cuda::CUDAGraph {
    /// Whether it gives its memory back when it is destroyed, which terminates the program if somebody has done so.
    bool has_ended() const { return capture_ended_; }
  } graph;
};

bool DeviceGraph::is_available() { return true; }

DeviceGraph::DeviceGraph(c10::Device device, const std::function<void()>& work)
    : recording_(std::make_unique<Recording>()) {
  namespace allocator = c10::cuda::CUDACachingAllocator;
  const c10::DeviceGuard on_device(device);
  c10::cuda::device_synchronize();
  // The default stream cannot be recorded.
  const c10::StreamGuard on_side(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()).unwrap());
  work();
  c10::cuda::device_synchronize();
  allocator::emptyCache();  // while recording, memory that is not in use cannot be given back to make room
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const at::Generator before = generator.clone();
  const c10::MempoolId_t pool = at::cuda::graph_pool_handle();
  const auto clean_up = [](const auto& step) {
    try {
      step();
    } catch (const std::exception&) {  // as the recording is broken; what broke it is the error to tell
    }
  };
  try {
    // Other threads may do as they like with the device meanwhile.
    recording_->graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    work();
    recording_->graph.capture_end();
  } catch (...) {
    // What a broken recording leaves: the allocator and the generator would believe for ever that it goes on.
    // If nothing is recorded yet, torch suspects a wrong stream, which misleads: the error tells the reason.
    NoWarnings none;
    const c10::WarningUtils::WarningHandlerGuard quiet(&none);
    clean_up([&] { recording_->graph.capture_end(); });
    if (!recording_->graph.has_ended()) {
      clean_up([&] { allocator::endAllocateToPool(device.index(), pool); });
      clean_up([&] { allocator::releasePool(device.index(), pool); });
    }
    generator.graphsafe_set_state(before);
    throw;
  }
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::replay() { recording_->graph.replay(); }

}  // namespace it3::detail
