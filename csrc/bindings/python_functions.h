#pragma once

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/engine_setup.h>

namespace it3::python {

/// The functions of an engine as Python gives them. Borrows them: they live as long as what is returned.
///
/// @param embedder  an it3.Embedder, or another function of a prediction
/// @param combine_fn  None for broadcast_add()
/// @param distance_fn  a function or a name
EngineFunctions functions_from(const py::object& embedder, const py::object& combine_fn, const py::object& distance_fn);

}  // namespace it3::python
