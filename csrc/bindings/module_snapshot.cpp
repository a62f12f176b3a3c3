#include "module_snapshot.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <pybind11/gil_safe_call_once.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include "module_tree.h"

namespace it3::python {
namespace {

constexpr std::array<std::string_view, 4> hook_names = {
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"};

std::string_view text_of(py::handle name) {
  Py_ssize_t size = 0;
  const char* const text = PyUnicode_AsUTF8AndSize(name.ptr(), &size);
  return {text, static_cast<std::size_t>(size)};
}

bool is_scalar(py::handle object) {
  return PyBool_Check(object.ptr()) || PyLong_CheckExact(object.ptr()) || PyFloat_CheckExact(object.ptr()) ||
         PyUnicode_CheckExact(object.ptr());
}

/// Whether there are hooks for all modules.
bool has_global_hooks() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::list> hooks;
  hooks.call_once_and_store_result([] {
    const py::module_ module = py::module_::import("torch.nn.modules.module");
    py::list all;
    for (const std::string_view name : hook_names) all.append(module.attr(("_global" + std::string(name)).c_str()));
    return all;
  });
  for (const py::handle dict : hooks.get_stored()) {
    if (py::len(dict) != 0) return true;
  }
  return false;
}

/// Whether hooks wait for a tensor's gradient. One that was pickled has an empty dict of them.
bool has_gradient_hooks(py::handle variable) {
  const at::Tensor& tensor = THPVariable_Unpack(variable.ptr());
  if (torch::autograd::impl::get_autograd_meta(tensor) == nullptr) return false;
  if (torch::autograd::impl::post_acc_grad_hooks(tensor) != nullptr) return true;
  if (torch::autograd::impl::hooks(tensor).empty()) return false;
  const py::object hooks = variable.attr("_backward_hooks");
  return hooks.is_none() || py::len(hooks) != 0;
}

/// What code that runs in Python while tracing can ask of a tensor, beside its values.
std::int64_t kind_of(const at::Tensor& t) {
  return (static_cast<std::int64_t>(t.scalar_type()) << 32) + (static_cast<std::int64_t>(t.device().type()) << 16) +
         t.device().index();
}

}  // namespace

ModuleSnapshot::ModuleSnapshot(py::object root) : root_(std::move(root)), seen_(walk(root_)) {}

bool ModuleSnapshot::Fact::operator==(const Fact& other) const {
  if (object.is(other.object)) return detail == other.detail;
  if (Py_TYPE(object.ptr()) != Py_TYPE(other.object.ptr()) || !is_scalar(object)) return false;
  return PyObject_RichCompareBool(object.ptr(), other.object.ptr(), Py_EQ) == 1;
}

ModuleSnapshot::Change ModuleSnapshot::change() const {
  const Seen now = walk(root_);
  if (now.obstacle != seen_.obstacle || now.structure != seen_.structure) return Change::structure;
  return now.attributes != seen_.attributes ? Change::attributes : Change::none;
}

ModuleSnapshot::Seen ModuleSnapshot::walk(py::handle root) {
  Seen seen;
  if (has_global_hooks()) seen.obstacle = "there are hooks for all modules";
  const auto add = [](std::vector<Fact>& facts, py::handle object, bool with_version = false) {
    std::int64_t detail = 0;
    if (THPVariable_Check(object.ptr())) {
      const at::Tensor& tensor = THPVariable_Unpack(object.ptr());
      detail = kind_of(tensor) + (with_version && !tensor.is_inference() ? tensor._version() : 0);
    }
    facts.push_back({py::reinterpret_borrow<py::object>(object), detail});
  };
  const auto visit_attribute = [&](py::handle name, py::handle value) {
    add(seen.attributes, name);
    add(seen.attributes, value, /*with_version=*/true);
    if (PyDict_CheckExact(value.ptr())) {
      for (const auto& [key, item] : py::reinterpret_borrow<py::dict>(value)) {
        add(seen.attributes, key);
        add(seen.attributes, item, /*with_version=*/true);
      }
    } else if (PyList_CheckExact(value.ptr()) || PyTuple_CheckExact(value.ptr())) {
      for (const py::handle item : value) add(seen.attributes, item, /*with_version=*/true);
    }
  };
  // A module's own parts: their names, and which they are.
  const auto visit_parts = [&](py::handle parts) {
    if (!PyDict_CheckExact(parts.ptr())) {
      seen.obstacle = "a module of TorchScript is part of it";
      return;
    }
    for (const auto& [name, part] : py::reinterpret_borrow<py::dict>(parts)) {
      add(seen.structure, name);
      add(seen.structure, part);
      if (THPVariable_Check(part.ptr()) && has_gradient_hooks(part)) {
        seen.obstacle = "a parameter has hooks";
      }
    }
  };
  for_each_module(root, [&](const std::string&, py::handle module) {
    add(seen.structure, module);
    add(seen.structure, reinterpret_cast<PyObject*>(Py_TYPE(module.ptr())));
    const py::dict attributes = module.attr("__dict__");
    for (const auto& [name, value] : attributes) {
      const std::string_view text = text_of(name);
      if (text == "_parameters" || text == "_buffers" || text == "_modules") {
        visit_parts(value);
      } else if (text == "training") {
        add(seen.structure, value);
      } else if (std::find(hook_names.begin(), hook_names.end(), text) != hook_names.end()) {
        if (PyObject_Size(value.ptr()) != 0) seen.obstacle = "it has hooks";
      } else {
        visit_attribute(name, value);
      }
    }
  });
  return seen;
}

}  // namespace it3::python
