#pragma once

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// Keeps this thread from what torch.export prints and logs of models that it cannot take, while it lives. In C++, as a
/// Ctrl-C could end Python code that puts things back. Needs the GIL.
class QuietExport {
 public:
  /// @param stderr_for  a function of a stream: one that takes what other threads write only
  explicit QuietExport(const py::object& stderr_for)
      : sys_(py::module_::import("sys")), stderr_(sys_.attr("stderr")), quiet_stderr_(stderr_for(stderr_)) {
    const py::object get_logger = py::module_::import("logging").attr("getLogger");
    const py::object thread = py::module_::import("threading").attr("get_ident")();
    is_of_others_ =
        py::cpp_function([thread](const py::object& record) { return !thread.equal(record.attr("thread")); });
    for (const char* const name :
         {"torch.fx.experimental.symbolic_shapes", "torch.export._trace", "torch.export",
          "torch._export.non_strict_utils"}) {
      filters_.append(get_logger(name).attr("filters"));
    }
    sys_.attr("stderr") = quiet_stderr_;
    for (const py::handle filters : filters_) PyList_Append(filters.ptr(), is_of_others_.ptr());
  }
  ~QuietExport() {
    const py::error_scope pending;
    if (py::object(sys_.attr("stderr")).is(quiet_stderr_)) PyObject_SetAttrString(sys_.ptr(), "stderr", stderr_.ptr());
    for (const py::handle filters : filters_) {
      const Py_ssize_t place = PySequence_Index(filters.ptr(), is_of_others_.ptr());
      if (place >= 0) PySequence_DelItem(filters.ptr(), place);
    }
    PyErr_Clear();
  }
  QuietExport(const QuietExport&) = delete;
  QuietExport& operator=(const QuietExport&) = delete;

 private:
  py::module_ sys_;
  py::object stderr_, quiet_stderr_, is_of_others_;
  py::list filters_;
};

}  // namespace it3::python
