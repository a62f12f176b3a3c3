#pragma once

#include <optional>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/samples.h>
#include <it3/script_network.h>

namespace it3::python {

/// What in_dims, in torch.vmap's convention, says of each of tensors_in(inputs); nothing for None. Raises
/// c10::ValueError if it does not have the structure of the inputs.
std::optional<InDims> in_dims_of_tensors(const py::object& inputs, const py::object& in_dims);

/// The same for the arguments of a TorchScript module's forward(), as script_inputs_from() gives them.
std::optional<InDims> in_dims_of_script(
    const ScriptNetwork& network, const py::object& inputs, const py::object& in_dims);

/// in_dims as the core and files hold it, and back. Raises c10::TypeError for other objects than numbers, None, tuples,
/// lists and dictionaries.
InDims in_dims_from(const py::object& in_dims);
py::object to_python(const InDims& in_dims);

}  // namespace it3::python
