#pragma once

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/online.h>

namespace it3::python {

/// What is kept between calls, as a tuple that can be pickled, and back.
py::tuple state_of(const Online& online);
Online online_from(const py::tuple& saved);

}  // namespace it3::python
