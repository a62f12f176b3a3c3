#include "cuda_graphs/device_on_cpu.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>

#include "cuda_graphs/device_graph.h"

namespace it3::test {
namespace {

struct CpuWithEvents : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CPU> {
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override { ++device.recorded_events; }
  void block(void*, const c10::Stream&) const override { ++device.waits_for_events; }
  void synchronizeEvent(void*) const override { ++device.synchronized_events; }
};
C10_REGISTER_GUARD_IMPL(CPU, CpuWithEvents)

}  // namespace
}  // namespace it3::test

namespace it3::detail {

struct DeviceGraph::Recording {
  std::function<void()> work;
};

bool DeviceGraph::is_available() { return test::device.has_graphs; }

DeviceGraph::DeviceGraph(c10::Device, const std::function<void()>& work) : recording_(new Recording{work}) {
  TORCH_CHECK(!test::device.fails_to_record, "the work is not of that kind");
  work();  // as on a CUDA device: once to set up, once to record
  work();
  ++test::device.recordings;
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::replay() {
  ++test::device.replays;
  recording_->work();
}

}  // namespace it3::detail
