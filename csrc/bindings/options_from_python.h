#pragma once

#include <torch/csrc/utils/pybind.h>

#include <it3/options.h>

namespace it3::python {

/// Options from a dictionary, checked. Raises what Options::set and Options::validate raise.
Options options_from(const py::dict& values);

/// A dictionary of options with others in place of some, see Options::override_with.
py::dict overridden(const py::dict& values, const py::dict& others);

/// The dictionary of options that are set.
py::dict to_python(const Options& options);

}  // namespace it3::python
