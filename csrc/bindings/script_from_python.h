#pragma once

#include <optional>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/inputs.h>
#include <it3/backend/output_path.h>
#include <it3/method.h>
#include <it3/script_network.h>

namespace it3::python {

/// The module in a torch.jit.ScriptModule. Raises TypeError for another object.
torch::jit::Module script_module_from(const py::object& module);

/// A function of an engine that is a torch.jit.ScriptModule, for the core to run without Python; an empty one for
/// another object.
DistanceFunction script_function_from(const py::object& function);

/// A place in an output as Python gives it: an index, a key, or a tuple of them; None for no place. Raises TypeError
/// for another object.
///
/// @param option  the place's name, for the error
std::optional<OutputPath> output_path_from(const py::object& place, const char* option);

/// A network around a torch.jit.ScriptModule, which it shares. Raises TypeError for another object.
std::shared_ptr<ScriptNetwork> script_network_from(
    const py::object& module,
    const std::string& layer,
    const py::object& output = py::none(),
    const py::object& layer_output = py::none());

/// Python inputs as the module's forward() takes them: a tensor f(x), a tuple or list f(*x), a mapping f(**x). Raises
/// what calling the module with them would raise.
Inputs script_inputs_from(const ScriptNetwork& network, const py::object& inputs);

}  // namespace it3::python
