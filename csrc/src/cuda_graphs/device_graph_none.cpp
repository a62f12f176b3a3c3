// Where torch is built without CUDA.
#include <c10/util/Exception.h>

#include "cuda_graphs/device_graph.h"

namespace it3::detail {

struct DeviceGraph::Recording {};

bool DeviceGraph::is_available() { return false; }

DeviceGraph::DeviceGraph(c10::Device, const std::function<void()>&) {
  TORCH_CHECK(false, "this it3 was built without CUDA");
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::replay() {}

}  // namespace it3::detail
