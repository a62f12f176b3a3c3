#include "exported_from_python.h"

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Layout.h>
#include <torch/csrc/MemoryFormat.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/library.h>

#include "output_choice.h"

namespace it3::python {
namespace {

/// What an operation of torch's can be called with beside tensors.
c10::IValue constant_from(const py::handle& given) {
  PyObject* const o = given.ptr();
  if (given.is_none()) return {};
  if (PyBool_Check(o)) return given.cast<bool>();
  if (PyLong_Check(o)) return given.cast<std::int64_t>();
  if (PyFloat_Check(o)) return given.cast<double>();
  if (PyComplex_Check(o)) return given.cast<c10::complex<double>>();
  if (PyUnicode_Check(o)) return given.cast<std::string>();
  if (THPDevice_Check(o)) return reinterpret_cast<THPDevice*>(o)->device;
  if (THPDtype_Check(o)) return reinterpret_cast<THPDtype*>(o)->scalar_type;
  if (THPLayout_Check(o)) return reinterpret_cast<THPLayout*>(o)->layout;
  if (THPMemoryFormat_Check(o)) return reinterpret_cast<THPMemoryFormat*>(o)->memory_format;
  TORCH_CHECK_VALUE(
      false, "the exported program holds a ", Py_TYPE(o)->tp_name, ", ", py::repr(given).cast<std::string>());
}

ExportedArgument argument_from(const py::handle& given, const py::handle& value_type) {
  if (py::isinstance(given, value_type)) return {ExportedArgument::Value{given.attr("name").cast<std::string>()}};
  if (!PyList_Check(given.ptr()) && !PyTuple_Check(given.ptr())) return {constant_from(given)};
  std::vector<ExportedArgument> elements;
  for (const py::handle element : given) elements.push_back(argument_from(element, value_type));
  return {std::move(elements)};
}

}  // namespace

ExportedGraph exported_graph_from(const py::object& graph) {
  const py::object value_type = graph.attr("Value");
  ExportedGraph made;
  for (const py::handle input : graph.attr("inputs")) {
    auto [value, sizes] = input.cast<std::pair<std::string, std::vector<std::string>>>();
    made.inputs.push_back({std::move(value), std::move(sizes)});
  }
  for (const py::handle given : graph.attr("tensors")) {
    const auto tensor = py::reinterpret_borrow<py::tuple>(given);
    made.tensors.push_back(
        {tensor[0].cast<std::string>(), tensor[1].cast<std::string>(), THPVariable_Unpack(tensor[2].ptr()),
         tensor[3].cast<bool>()});
  }
  for (const py::handle given : graph.attr("operations")) {
    ExportedOperation operation;
    operation.target = given.attr("target").cast<std::string>();
    for (const py::handle argument : given.attr("arguments")) {
      const auto pair = py::reinterpret_borrow<py::tuple>(argument);
      operation.arguments.emplace_back(pair[0].cast<std::string>(), argument_from(pair[1], value_type));
    }
    operation.results = given.attr("results").cast<std::vector<std::string>>();
    operation.gives_list = given.attr("gives_list").cast<bool>();
    operation.modules = given.attr("modules").cast<std::vector<std::string>>();
    made.operations.push_back(std::move(operation));
  }
  made.output = graph.attr("output").cast<std::string>();
  made.layers = graph.attr("layers").cast<std::vector<std::pair<std::string, std::string>>>();
  made.conditions = graph.attr("conditions").cast<std::vector<std::string>>();
  for (const py::handle given : graph.attr("calls")) {
    auto [layer, returned, structure] = given.cast<std::tuple<std::string, std::vector<std::string>, std::string>>();
    made.calls.push_back({std::move(layer), std::move(returned), std::move(structure)});
  }
  if (const py::object layer = graph.attr("layer"); !layer.is_none()) {
    mark_layer(made, layer.cast<std::string>(), output_choice(graph.attr("layer_output"), "layer_output", false).path);
  }
  return made;
}

}  // namespace it3::python

// Stands behind the output of the layer that a model is cut at, while it is exported.
TORCH_LIBRARY_FRAGMENT(it3, library) {
  library.def("features(Tensor(a) x) -> Tensor(a)", [](const at::Tensor& x) { return x.alias(); });
}
