#pragma once

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// What of it3 is written in Python, and called from here. The package gives it when it is imported.
struct PythonParts {
  /// it3.Embedder.
  py::object embedder_class;
  /// Made of (model, layer, output, layer_output): traces an eager model.
  py::object tracing_plan;
  /// Made of a function that takes the place of batch normalization in eval mode: calls a model so.
  py::object other_statistics;
  /// it3.cutting.shared_head.SharedHead.
  py::object shared_head;
  /// it3.cutting.exported_model.ExportedModel.
  py::object exported_model_class;
};

/// Raises c10::Error before there are any.
const PythonParts& python_parts();

void use_python_parts(PythonParts parts);

}  // namespace it3::python
