#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings.h"
#include "memory_count.h"

namespace it3::python {

void bind_memory(py::module_& module) {
  module.def(
      "peak_memory", torch::wrap_pybind_function([](const py::object& call) { return detail::peak_memory(call); }),
      py::arg("call"), "The bytes that a call takes from torch's allocators at its peak, beyond what was held before.");
}

}  // namespace it3::python
