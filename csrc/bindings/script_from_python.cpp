#include "script_from_python.h"

#include <c10/util/Exception.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <it3/backend/script_function.h>

#include "python_values.h"

namespace it3::python {

torch::jit::Module script_module_from(const py::object& module) {
  auto script = torch::jit::as_module(module);
  TORCH_CHECK_TYPE(script.has_value(), "a torch.jit.ScriptModule is needed, not a ", Py_TYPE(module.ptr())->tp_name);
  return std::move(*script);
}

DistanceFunction script_function_from(const py::object& function) {
  auto script = torch::jit::as_module(function);
  return script ? DistanceFunction(ScriptFunction(std::move(*script))) : nullptr;
}

std::optional<OutputPath> output_path_from(const py::object& place, const char* option) {
  if (place.is_none()) return std::nullopt;
  const bool is_tuple = PyTuple_Check(place.ptr());
  const py::tuple parts = is_tuple ? py::tuple(place) : py::make_tuple(place);
  OutputPath path;
  for (const py::handle part : parts) {
    const bool is_index = PyLong_Check(part.ptr()) && !PyBool_Check(part.ptr());
    TORCH_CHECK_TYPE(
        is_index || PyUnicode_Check(part.ptr()), option,
        " must be an index, a key, or a tuple of them such as (1, 0), not ", py::repr(place).cast<std::string>());
    if (is_index) {
      path.emplace_back(part.cast<std::int64_t>());
    } else {
      path.emplace_back(part.cast<std::string>());
    }
  }
  return path;
}

std::shared_ptr<ScriptNetwork> script_network_from(
    const py::object& module, const std::string& layer, const py::object& output, const py::object& layer_output) {
  return std::make_shared<ScriptNetwork>(
      script_module_from(module), layer, output_path_from(output, "output"),
      output_path_from(layer_output, "layer_output"));
}

Inputs script_inputs_from(const ScriptNetwork& network, const py::object& inputs) {
  const auto method = network.module().get_method("forward");
  const Arguments arguments = arguments_of(inputs);
  torch::jit::Stack stack = torch::jit::createStackForSchema(
      method.function().getSchema(), torch::jit::tuple_slice(arguments.args), arguments.kwargs,
      network.module()._ivalue());
  stack.erase(stack.begin());
  return Inputs(std::move(stack));
}

}  // namespace it3::python
