#pragma once

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// What a model is called with: tuples and lists are positional arguments, mappings keywords, all else is one argument.
struct Arguments {
  py::tuple args;
  py::dict kwargs;
};

Arguments arguments_of(const py::object& inputs);

bool is_sequence(py::handle object);
bool is_mapping(py::handle object);

}  // namespace it3::python
