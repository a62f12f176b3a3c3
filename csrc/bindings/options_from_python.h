#pragma once

#include <torch/csrc/utils/pybind.h>

#include <it3/options.h>

namespace it3::python {

/// Options from a dictionary, checked. Raises what Options::set and Options::validate raise.
Options options_from(const py::dict& values);

/// The dictionary of options that are set.
py::dict to_python(const Options& options);

}  // namespace it3::python
