#include "python_call.h"

#include <torch/csrc/autograd/python_variable.h>

namespace it3::python {

bool is_sequence(py::handle object) { return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr()); }

bool is_mapping(py::handle object) {
  return PyDict_Check(object.ptr()) || py::isinstance(object, py::module_::import("collections.abc").attr("Mapping"));
}

Arguments arguments_of(const py::object& inputs) {
  if (is_sequence(inputs)) return {py::tuple(inputs), py::dict()};
  if (!THPVariable_Check(inputs.ptr()) && is_mapping(inputs)) return {py::tuple(), py::dict(inputs)};
  return {py::make_tuple(inputs), py::dict()};
}

}  // namespace it3::python
