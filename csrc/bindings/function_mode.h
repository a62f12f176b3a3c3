#pragma once

#include <memory>

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/SafePyObject.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// Has a TorchFunctionMode on while it lives: in C++, as a Ctrl-C could end the Python code that takes it off.
class FunctionMode {
 public:
  explicit FunctionMode(py::object mode) {
    TLS::push_onto_stack(std::make_shared<c10::SafePyObject>(mode.release().ptr(), getPyInterpreter()));
  }
  ~FunctionMode() { TLS::set_state(before_); }
  FunctionMode(const FunctionMode&) = delete;
  FunctionMode& operator=(const FunctionMode&) = delete;

 private:
  using TLS = at::impl::PythonTorchFunctionTLS;

  const TLS before_ = TLS::get_state();
};

}  // namespace it3::python
