#pragma once

#include <torch/csrc/utils/pybind.h>

#include "translated.h"

namespace it3::python {

/// Binds a class with enter() and exit() as a context manager.
template <typename Hold>
py::class_<Hold> bind_hold(py::module_& module, const char* name, const char* documentation) {
  return py::class_<Hold>(module, name, documentation)
      .def("__enter__", translated([](Hold& hold) { hold.enter(); }))
      .def(
          "__exit__", [](Hold& hold, const py::object&, const py::object&, const py::object&) { hold.exit(); },
          py::arg("type"), py::arg("value"), py::arg("traceback"));
}

}  // namespace it3::python
