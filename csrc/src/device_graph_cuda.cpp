#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/cuda/CUDAFunctions.h>

#include "device_graph.h"

namespace it3::detail {

struct DeviceGraph::Recording {
  at::cuda::CUDAGraph graph;
};

bool DeviceGraph::is_available() { return true; }

c10::MempoolId_t DeviceGraph::make_pool() { return at::cuda::graph_pool_handle(); }

DeviceGraph::DeviceGraph(c10::Device device, c10::MempoolId_t pool, const std::function<void()>& work)
    : recording_(std::make_unique<Recording>()) {
  const c10::DeviceGuard on_device(device);
  c10::cuda::device_synchronize();
  // The default stream cannot be recorded.
  const c10::StreamGuard on_side(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()).unwrap());
  work();
  c10::cuda::device_synchronize();
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const at::Generator before = generator.clone();
  try {
    // Other threads may do as they like with the device meanwhile.
    recording_->graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    work();
    recording_->graph.capture_end();
  } catch (...) {
    try {
      recording_->graph.capture_end();
    } catch (const std::exception&) {  // as the recording is broken; what broke it is the error to tell
    }
    generator.graphsafe_set_state(before);  // its own state would believe for ever that it is being recorded
    throw;
  }
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::replay() { recording_->graph.replay(); }

}  // namespace it3::detail
