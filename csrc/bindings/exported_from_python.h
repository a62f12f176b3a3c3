#pragma once

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/exported_graph.h>

namespace it3::python {

/// An exported program as it3.cutting.exported_graph.Graph describes it.
ExportedGraph exported_graph_from(const py::object& graph);

}  // namespace it3::python
