#include "python_values.h"

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

namespace it3::python {
namespace {

bool is_sequence(py::handle object) { return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr()); }

bool is_mapping(py::handle object) {
  return PyDict_Check(object.ptr()) || py::isinstance(object, py::module_::import("collections.abc").attr("Mapping"));
}

py::handle type_of(py::handle object) { return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())); }

/// A sequence of the same type with other items.
py::object same_sequence(py::handle sequence, const py::list& items) {
  if (PyList_CheckExact(sequence.ptr())) return items;
  if (PyTuple_CheckExact(sequence.ptr())) return py::tuple(items);
  if (py::hasattr(sequence, "_make")) return type_of(sequence).attr("_make")(items);
  return type_of(sequence)(items);
}

/// The object with each tensor in it replaced; tuples and lists keep their types.
py::object replace_tensors(py::handle object, const Replace& replace) {
  if (THPVariable_Check(object.ptr())) {
    return py::reinterpret_steal<py::object>(THPVariable_Wrap(replace(THPVariable_Unpack(object.ptr()))));
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
  if (is_sequence(inputs)) return {py::tuple(inputs), py::dict()};
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

py::object replace_first_tensor(py::handle object, const Replace& replace) {
  if (THPVariable_Check(object.ptr())) {
    const at::Tensor replacement = replace(THPVariable_Unpack(object.ptr()));
    if (!replacement.defined()) return py::reinterpret_borrow<py::object>(object);
    return py::reinterpret_steal<py::object>(THPVariable_Wrap(replacement));
  }
  if (is_sequence(object)) {
    const py::list items(py::reinterpret_borrow<py::object>(object));
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (py::object replaced = replace_first_tensor(items[i], replace)) {
        items[i] = std::move(replaced);
        return same_sequence(object, items);
      }
    }
  } else if (is_mapping(object)) {
    for (const py::handle key : py::list(object.attr("keys")())) {
      if (py::object replaced = replace_first_tensor(object[key], replace)) {
        py::object copy = py::module_::import("copy").attr("copy")(object);
        copy[key] = replaced;
        return copy;
      }
    }
  }
  return {};
}

at::Tensor prediction_in(py::handle object) {
  if (THPVariable_Check(object.ptr())) return THPVariable_Unpack(object.ptr());
  at::Tensor found;
  replace_first_tensor(object, [&](const at::Tensor& t) {
    found = t;
    return at::Tensor();
  });
  TORCH_CHECK_TYPE(
      found.defined(), "the model returned a ", type_name(object),
      "; it must return a tensor, or a tuple, list or mapping whose first tensor is the prediction");
  return found;
}

}  // namespace it3::python
