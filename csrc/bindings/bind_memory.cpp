#include <algorithm>
#include <atomic>
#include <memory>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings.h"
#include "translated.h"

namespace it3::python {
namespace {

/// Adds up what torch's allocators give and take back in a thread, and in those that run backward passes for it.
class MemoryCount : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*ptr*/, std::int64_t size, std::size_t, std::size_t, c10::Device) override {
    const std::int64_t held = held_ += size;
    std::int64_t peak = peak_;
    while (held > peak && !peak_.compare_exchange_weak(peak, held)) continue;
  }
  bool memoryProfilingEnabled() const override { return true; }
  std::int64_t peak() const { return peak_; }

 private:
  std::atomic<std::int64_t> held_ = 0, peak_ = 0;
};

std::int64_t peak_memory(const py::object& call) {
  const auto count = std::make_shared<MemoryCount>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, count);
  call();
  return count->peak();
}

}  // namespace

void bind_memory(py::module_& module) {
  module.def(
      "peak_memory", translated(peak_memory), py::arg("call"),
      "The bytes that a call takes from torch's allocators at its peak, beyond what was held before.");
}

}  // namespace it3::python
