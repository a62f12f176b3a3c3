#pragma once

#include <functional>
#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <ATen/core/ivalue.h>

namespace it3::python {

/// What a model is called with: tuples and lists are positional arguments, mappings keywords, all else is one argument.
struct Arguments {
  py::tuple args;
  py::dict kwargs;
};

Arguments arguments_of(const py::object& inputs);

std::string type_name(py::handle object);

/// The tensors in an object: itself, or those in tuples, lists and mappings, in their order.
std::vector<c10::IValue> tensors_in(py::handle object);

/// The object with others in the places of tensors_in(); tuples and lists keep their types.
py::object with_tensors(py::handle object, const std::vector<c10::IValue>& tensors);

/// What the first tensor in an object is replaced with. Undefined: it stays.
using Replace = std::function<at::Tensor(const at::Tensor&)>;

/// The object with its first tensor replaced; the containers around it are copied and keep their types. A null object
/// if there is no tensor in it.
py::object replace_first_tensor(py::handle object, const Replace& replace);

/// The first tensor in what a model returned. Raises c10::TypeError if there is none.
at::Tensor prediction_in(py::handle output);

}  // namespace it3::python
