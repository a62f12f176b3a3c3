#pragma once

#include <torch/csrc/utils/pybind.h>

#include <it3/options.h>

namespace it3::python {

/// Options from a dict by their names. Raises ValueError and TypeError as Options::set does.
Options options_from(const py::dict& values);

}  // namespace it3::python
