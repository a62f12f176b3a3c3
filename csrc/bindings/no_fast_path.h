#pragma once

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// Keeps attention from its fast path while it lives, which makes nested tensors of padded ones where there are no
/// gradients: nothing could be injected into those, and what comes out is zero at padded places, in which two passes of
/// different modes would differ. Needs the GIL.
class NoFastPath {
 public:
  NoFastPath() {
    if (count == 0) {
      was_enabled = mha().attr(name).cast<bool>();
      mha().attr(name) = false;  // past set_fastpath_enabled(), whose Python code a Ctrl-C could end
    }
    ++count;
  }
  ~NoFastPath() {
    if (--count != 0) return;
    const py::error_scope pending;
    if (PyObject_SetAttrString(mha().ptr(), name, was_enabled ? Py_True : Py_False) != 0) PyErr_Clear();
  }
  NoFastPath(const NoFastPath&) = delete;
  NoFastPath& operator=(const NoFastPath&) = delete;

 private:
  static py::handle mha() {
    static const py::handle module = py::module_::import("torch.backends.mha").release();
    return module;
  }

  static constexpr const char* name = "_is_fastpath_enabled";
  inline static int count = 0;  // of those that live, in all threads
  inline static bool was_enabled = true;
};

}  // namespace it3::python
