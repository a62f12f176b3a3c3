#include "call_kind.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/python_variable.h>

namespace it3::python {
namespace {

/// What code may ask of how a tensor lies in memory, and does as `x.view(...)`; without its sizes where it is usual.
std::string memory_layout_of(const at::Tensor& tensor) {
  if (tensor.layout() != at::kStrided || tensor.is_nested()) return "";
  const bool is_contiguous = tensor.is_contiguous();
  const bool is_in_channels_last = tensor.dim() == 4 && tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (is_contiguous || is_in_channels_last) return c10::str(is_contiguous, is_in_channels_last);
  return c10::str(tensor.strides());
}

}  // namespace

bool flatten(py::handle object, std::vector<c10::IValue>& tensors, std::string& others) {
  if (THPVariable_Check(object.ptr())) {
    const at::Tensor& tensor = THPVariable_Unpack(object.ptr());
    others += c10::str(tensor.scalar_type(), tensor.device(), tensor.dim(), tensor.layout(), memory_layout_of(tensor));
    tensors.emplace_back(tensor);
    return true;
  }
  const bool is_tuple = PyTuple_CheckExact(object.ptr());
  if (is_tuple || PyList_CheckExact(object.ptr())) {
    others += is_tuple ? '(' : '[';
    for (const py::handle item : object) {
      if (!flatten(item, tensors, others)) return false;
      others += ',';
    }
    others += ')';
    return true;
  }
  if (PyDict_CheckExact(object.ptr())) {
    others += '{';
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(object)) {
      others += py::repr(key).cast<std::string>() + ':';
      if (!flatten(value, tensors, others)) return false;
      others += ',';
    }
    others += '}';
    return true;
  }
  const bool is_constant = object.is_none() || PyBool_Check(object.ptr()) || PyLong_CheckExact(object.ptr()) ||
                           PyFloat_CheckExact(object.ptr()) || PyUnicode_CheckExact(object.ptr());
  if (is_constant) others += py::repr(object).cast<std::string>();
  return is_constant;
}

bool has_same_twice(const std::vector<c10::IValue>& tensors) {
  for (auto one = tensors.begin(); one != tensors.end(); ++one) {
    const auto is_same = [&](const c10::IValue& other) { return other.toTensor().is_same(one->toTensor()); };
    if (std::any_of(one + 1, tensors.end(), is_same)) return true;
  }
  return false;
}

}  // namespace it3::python
