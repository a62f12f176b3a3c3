#pragma once

#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <ATen/core/ivalue.h>

namespace it3::python {

/// What a model is called with: tuples and lists are positional arguments, mappings keywords, all else, a packed
/// sequence too, is one argument.
struct Arguments {
  py::tuple args;
  py::dict kwargs;
};

Arguments arguments_of(const py::object& inputs);

std::string type_name(py::handle object);

/// The tensors in an object: itself, or those in tuples, lists and mappings, in their order.
std::vector<c10::IValue> tensors_in(py::handle object);

/// The object with others in the places of tensors_in(); tuples and lists keep their types.
py::object with_tensors(py::handle object, const std::vector<c10::IValue>& tensors);

/// Whether it is a torch.nn.utils.rnn.PackedSequence, which is one argument, with values in its `data` alone.
bool is_packed_sequence(py::handle object);
bool is_sequence(py::handle object);
bool is_mapping(py::handle object);
bool is_dataclass(py::handle object);

/// A sequence of the same type with other items.
py::object same_sequence(py::handle sequence, const py::list& items);

}  // namespace it3::python
