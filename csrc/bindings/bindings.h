#pragma once

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

void bind_compiled(py::module_& module);
void bind_embedder(py::module_& module);
void bind_engine(py::module_& module);
void bind_memory(py::module_& module);
void bind_options(py::module_& module);
void bind_reads(py::module_& module);
void bind_files(py::module_& module);

/// Has calls end by Python's exceptions such as KeyboardInterrupt, see Interrupts.
void listen_for_interrupts();

}  // namespace it3::python
