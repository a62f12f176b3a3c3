#pragma once

#include <functional>
#include <memory>

#include <c10/core/Device.h>

namespace it3::detail {

/// Work on a CUDA device that is recorded once, as a CUDA graph, and replayed with the same memory.
class DeviceGraph {
 public:
  /// Whether it3 was built with CUDA.
  static bool is_available();

  /// Does the work once, so that libraries set up what they need, and records it once.
  DeviceGraph(c10::Device device, const std::function<void()>& work);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  /// On the current stream.
  void replay();

 private:
  struct Recording;
  std::unique_ptr<Recording> recording_;
};

}  // namespace it3::detail
