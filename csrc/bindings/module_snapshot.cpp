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

/// Whether it is the name of the train/eval flag, which Python holds once.
bool is_mode(py::handle name) {
  static const PyObject* const training = PyUnicode_InternFromString("training");
  return name.ptr() == training;
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

/// Calls visit for what is in a dict, list or tuple, names too, until it returns false. Whether it never did.
template <typename Visit>
bool for_each_inside(py::handle container, const Visit& visit) {
  if (PyDict_CheckExact(container.ptr())) {
    PyObject *name = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(container.ptr(), &at, &name, &value) != 0;) {
      if (!visit(name) || !visit(value)) return false;
    }
  } else if (PyODict_CheckExact(container.ptr()) && PyDict_Size(container.ptr()) == 0) {
    return true;                                // as most dicts of hooks, of which an iterator would take its time
  } else if (PyODict_Check(container.ptr())) {  // torch makes one where a part of a Sequential is deleted
    for (const py::handle name : container) {   // in an order of its own
      if (!visit(name.ptr()) || !visit(PyDict_GetItem(container.ptr(), name.ptr()))) return false;
    }
  } else if (PyList_CheckExact(container.ptr()) || PyTuple_CheckExact(container.ptr())) {
    PyObject* const* const items = PySequence_Fast_ITEMS(container.ptr());
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(container.ptr());
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (!visit(items[i])) return false;
    }
  }
  return true;
}

}  // namespace

ModuleSnapshot::Role ModuleSnapshot::role_of(py::handle name) {
  const std::string_view text = text_of(name);
  if (text == "_parameters" || text == "_buffers" || text == "_modules") return Role::parts;
  const bool is_hooks = std::find(hook_names.begin(), hook_names.end(), text) != hook_names.end();
  return is_hooks ? Role::hooks : Role::attribute;
}

/// Values of parameters and buffers may change: only attributes of other kinds are held by version.
std::vector<Fact> ModuleSnapshot::inside(py::handle value, Role role) {
  std::vector<Fact> facts;
  for_each_inside(value, [&](PyObject* object) {
    facts.emplace_back(object, role == Role::attribute);
    return true;
  });
  return facts;
}

bool ModuleSnapshot::is_same_inside(py::handle value, const Item& item) {
  std::size_t i = 0;
  const bool all = for_each_inside(value, [&](PyObject* object) {
    const bool is_same = i < item.inside.size() && item.inside[i].equals(object, item.role == Role::attribute);
    ++i;
    return is_same;
  });
  return all && i == item.inside.size();
}

ModuleSnapshot::ModuleSnapshot(const py::object& root) {
  for_each_module(root, [&](const std::string&, py::handle module) {
    const py::handle type(reinterpret_cast<PyObject*>(Py_TYPE(module.ptr())));
    ModuleFacts facts{py::reinterpret_borrow<py::object>(module), py::reinterpret_borrow<py::object>(type), {}};
    const py::dict attributes = module.attr("__dict__");
    for (const auto& [name, value] : attributes) {
      if (is_mode(name)) continue;
      const Role role = role_of(name);
      facts.items.push_back(
          {py::reinterpret_borrow<py::object>(name), role, Fact(value, role == Role::attribute), inside(value, role)});
    }
    modules_.push_back(std::move(facts));
  });
  obstacle_ = find_obstacle();
}

ModuleSnapshot::Change ModuleSnapshot::change() const {
  bool are_attributes_same = true;
  for (const ModuleFacts& facts : modules_) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(facts.module.ptr())) != facts.type.ptr()) return Change::structure;
    const auto attributes = py::reinterpret_steal<py::dict>(PyObject_GenericGetDict(facts.module.ptr(), nullptr));
    std::size_t i = 0;
    PyObject *name = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(attributes.ptr(), &at, &name, &value) != 0;) {
      if (is_mode(name)) continue;
      const std::size_t place = i++;
      const bool is_known = place < facts.items.size() && facts.items[place].name.ptr() == name;
      if (!is_known) {  // others came or went, so that places have moved
        are_attributes_same = false;
        if (role_of(name) != Role::attribute) return Change::structure;
        continue;
      }
      const Item& item = facts.items[place];
      const bool is_same = item.value.equals(value, item.role == Role::attribute) && is_same_inside(value, item);
      if (is_same) continue;
      if (item.role != Role::attribute) return Change::structure;
      are_attributes_same = false;
    }
    are_attributes_same = are_attributes_same && i == facts.items.size();
  }
  if (find_obstacle() != obstacle_) return Change::structure;
  return are_attributes_same ? Change::none : Change::attributes;
}

std::string ModuleSnapshot::find_obstacle() const {
  if (has_global_hooks()) return "hooks for all modules are registered";
  for (const ModuleFacts& facts : modules_) {
    for (const Item& item : facts.items) {
      if (item.role == Role::hooks && PyObject_Size(item.value.object.ptr()) != 0)
        return "a module of the model has hooks";
      if (item.role != Role::parts) continue;
      if (!PyDict_Check(item.value.object.ptr())) return "a part of the model is a TorchScript module";
      for (const Fact& part : item.inside) {
        if (part.is_tensor && has_gradient_hooks(part.object)) return "a parameter has gradient hooks";
      }
    }
  }
  return "";
}

}  // namespace it3::python
