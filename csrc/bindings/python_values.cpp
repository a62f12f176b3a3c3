#include "python_values.h"

#include <functional>

#include <pybind11/gil_safe_call_once.h>
#include <torch/csrc/autograd/python_variable.h>

namespace it3::python {

bool is_sequence(py::handle object) { return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr()); }

bool is_packed_sequence(py::handle object) {
  if (!PyTuple_Check(object.ptr()) || PyTuple_CheckExact(object.ptr())) return false;
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> type;
  type.call_once_and_store_result(
      [] { return py::object(py::module_::import("torch.nn.utils.rnn").attr("PackedSequence")); });
  return py::isinstance(object, type.get_stored());
}

bool is_dataclass(py::handle object) {
  return !PyType_Check(object.ptr()) && py::hasattr(object, "__dataclass_fields__");
}

bool is_mapping(py::handle object) {
  return PyDict_Check(object.ptr()) || py::isinstance(object, py::module_::import("collections.abc").attr("Mapping"));
}

namespace {

py::handle type_of(py::handle object) { return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())); }

}  // namespace

py::object same_sequence(py::handle sequence, const py::list& items) {
  if (PyList_CheckExact(sequence.ptr())) return items;
  if (PyTuple_CheckExact(sequence.ptr())) return py::tuple(items);
  if (py::hasattr(sequence, "_make")) return type_of(sequence).attr("_make")(items);
  return type_of(sequence)(items);
}

namespace {

using Replace = std::function<at::Tensor(const at::Tensor&)>;

/// The object with each tensor in it replaced; tuples and lists keep their types.
py::object replace_tensors(py::handle object, const Replace& replace) {
  if (THPVariable_Check(object.ptr())) {
    return py::reinterpret_steal<py::object>(THPVariable_Wrap(replace(THPVariable_Unpack(object.ptr()))));
  }
  if (is_packed_sequence(object)) {
    return object.attr("_replace")(py::arg("data") = replace_tensors(object.attr("data"), replace));
  }
  if (is_sequence(object)) {
    py::list items;
    for (const py::handle item : object) items.append(replace_tensors(item, replace));
    return same_sequence(object, items);
  }
  if (is_mapping(object)) {
    py::dict items;
    for (const py::handle key : py::list(object.attr("keys")())) items[key] = replace_tensors(object[key], replace);
    return items;
  }
  return py::reinterpret_borrow<py::object>(object);
}

}  // namespace

Arguments arguments_of(const py::object& inputs) {
  if (is_sequence(inputs) && !is_packed_sequence(inputs)) return {py::tuple(inputs), py::dict()};
  if (!THPVariable_Check(inputs.ptr()) && is_mapping(inputs)) return {py::tuple(), py::dict(inputs)};
  return {py::make_tuple(inputs), py::dict()};
}

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

std::vector<c10::IValue> tensors_in(py::handle object) {
  if (THPVariable_Check(object.ptr())) return {THPVariable_Unpack(object.ptr())};
  std::vector<c10::IValue> tensors;
  replace_tensors(object, [&](const at::Tensor& t) {
    tensors.emplace_back(t);
    return t;
  });
  return tensors;
}

py::object with_tensors(py::handle object, const std::vector<c10::IValue>& tensors) {
  auto next = tensors.begin();
  return replace_tensors(object, [&](const at::Tensor&) { return (next++)->toTensor(); });
}

}  // namespace it3::python
