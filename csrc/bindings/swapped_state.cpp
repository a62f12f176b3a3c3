#include "swapped_state.h"

#include <algorithm>
#include <string_view>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/python_variable.h>

#include "module_tree.h"
#include "support/write_count.h"

namespace it3::python {
namespace {

constexpr int greatest_depth = 8;
constexpr std::size_t most_containers = 5000;
constexpr Py_ssize_t most_items = 1000;

py::object attributes_of(py::handle object) {
  auto dict = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(object.ptr(), nullptr));
  if (!dict) PyErr_Clear();
  return dict;
}

/// Sets a module's train/eval flag; what fails is left in PyErr.
void set_flag(py::handle module, py::handle value) {
  const py::object attributes = attributes_of(module);
  const py::str name("training");
  if (attributes && PyDict_Contains(attributes.ptr(), name.ptr()) == 1) {
    PyDict_SetItem(attributes.ptr(), name.ptr(), value.ptr());
  } else {
    PyObject_SetAttr(module.ptr(), name.ptr(), value.ptr());  // of TorchScript
  }
}

/// Whether it is an instance of a class that was written in Python, and no part of a library's machinery.
bool is_plain(py::handle object) {
  PyTypeObject* const type = Py_TYPE(object.ptr());
  if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 || PyType_Check(object.ptr()) || THPVariable_Check(object.ptr())) {
    return false;
  }
  const py::object name = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type)).attr("__module__");
  const std::string_view module = PyUnicode_Check(name.ptr()) ? PyUnicode_AsUTF8(name.ptr()) : "";
  return !module.starts_with("logging") && !module.starts_with("enum");
}

bool is_same(py::handle now, py::handle before) {
  if (PyObject_Size(now.ptr()) != PyObject_Size(before.ptr())) return false;
  if (PyDict_Check(now.ptr())) {
    Py_ssize_t a = 0, b = 0;
    PyObject *key = nullptr, *value = nullptr, *old_key = nullptr, *old_value = nullptr;
    while (PyDict_Next(now.ptr(), &a, &key, &value) != 0 && PyDict_Next(before.ptr(), &b, &old_key, &old_value) != 0) {
      if (key != old_key || value != old_value) return false;
    }
    return true;
  }
  if (PyList_Check(now.ptr())) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(now.ptr()); ++i) {
      if (PyList_GET_ITEM(now.ptr(), i) != PyList_GET_ITEM(before.ptr(), i)) return false;
    }
    return true;
  }
  return PyObject_RichCompareBool(now.ptr(), before.ptr(), Py_EQ) == 1;
}

/// Puts everything back; what fails is left to the caller in PyErr.
void put_back(py::handle container, py::handle before) {
  if (PyDict_CheckExact(container.ptr())) {
    PyDict_Clear(container.ptr());
    PyDict_Update(container.ptr(), before.ptr());
  } else if (PyDict_Check(container.ptr())) {  // such as an OrderedDict, which has more to clear
    Py_XDECREF(PyObject_CallMethod(container.ptr(), "clear", nullptr));
    Py_XDECREF(PyObject_CallMethod(container.ptr(), "update", "O", before.ptr()));
  } else if (PyList_Check(container.ptr())) {
    PyList_SetSlice(container.ptr(), 0, PyList_GET_SIZE(container.ptr()), before.ptr());
  } else {
    PySet_Clear(container.ptr());
    for (const py::handle item : py::reinterpret_borrow<py::set>(before)) PySet_Add(container.ptr(), item.ptr());
  }
}

/// Takes out of a dict what was not there before; what fails is left to the caller in PyErr.
void remove_added(py::handle now, py::handle before) {
  const auto keys = py::reinterpret_steal<py::object>(PyDict_Keys(now.ptr()));
  for (Py_ssize_t i = 0; keys && i < PyList_GET_SIZE(keys.ptr()); ++i) {
    PyObject* const key = PyList_GET_ITEM(keys.ptr(), i);
    if (PyDict_Contains(before.ptr(), key) == 0) PyObject_DelItem(now.ptr(), key);
  }
}

bool hangs_on_graph(py::handle value) {
  if (THPVariable_Check(value.ptr())) {
    const at::Tensor& tensor = THPVariable_Unpack(value.ptr());
    return tensor.requires_grad() && !tensor.is_leaf();
  }
  if (PyDict_Check(value.ptr())) {
    for (const auto& [key, item] : py::reinterpret_borrow<py::dict>(value)) {
      if (hangs_on_graph(item)) return true;
    }
  } else if (PyTuple_Check(value.ptr()) || PyList_Check(value.ptr())) {
    for (const py::handle item : value) {
      if (hangs_on_graph(item)) return true;
    }
  }
  return false;
}

}  // namespace

EvalScope::EvalScope(py::handle root) {
  for_each_module(root, [&](const std::string&, py::handle module) {
    py::object value = module.attr("training");
    if (value.is(py::bool_(false))) return;
    set_flag(module, py::bool_(false));
    flags_.push_back({py::reinterpret_borrow<py::object>(module), std::move(value)});
  });
}

EvalScope::~EvalScope() {
  const py::gil_scoped_acquire gil;
  const py::error_scope pending;  // an exception may be on its way to Python
  for (const Flag& flag : flags_) set_flag(flag.module, flag.value);
  PyErr_Clear();
  flags_.clear();
}

KeptState::KeptState(py::handle root, const VisitTensor& visit) {
  std::vector<py::object> modules;
  if (py::hasattr(root, "_modules")) {
    for_each_module(root, [&](const std::string&, py::handle module) {
      modules.push_back(py::reinterpret_borrow<py::object>(module));
      seen_.insert(module.ptr());
    });
  } else {
    walk(root, 0, visit);
  }
  for (const py::object& module : modules) {  // what others swap in
    for (const char* const parts : {"_parameters", "_buffers"}) {
      const py::object held = module.attr(parts);
      if (!PyDict_Check(held.ptr())) continue;
      for (const auto& [name, tensor] : py::reinterpret_borrow<py::dict>(held)) {
        if (!tensor.is_none()) seen_.insert(tensor.ptr());
      }
    }
    seen_.insert(py::object(module.attr("_buffers")).ptr());
    const py::object attributes = attributes_of(module);
    if (!attributes) continue;
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(attributes)) {
      // Hooks that forward() adds go again, but those that it removes stay away, as a lazy module's after its first
      // call.
      const std::string text = py::str(name);
      if (!PyDict_Check(value.ptr()) || text.find("_hooks") == std::string::npos) continue;
      if (text.starts_with("_forward")) hooks_.push_back(kept(value));
      seen_.insert(value.ptr());
    }
  }
  for (const py::object& module : modules) {
    if (const py::object attributes = attributes_of(module)) walk(attributes, 0, visit);
  }
  seen_.clear();
}

void KeptState::walk(py::handle value, int depth, const VisitTensor& visit) {
  const bool is_container = PyDict_Check(value.ptr()) || PyList_Check(value.ptr()) || PyAnySet_Check(value.ptr());
  const bool is_tuple = PyTuple_Check(value.ptr());
  const bool is_tensor = THPVariable_Check(value.ptr());
  if (!is_container && !is_tuple && !is_tensor && !is_plain(value)) return;
  if (depth > greatest_depth || kept_.size() > most_containers || !seen_.insert(value.ptr()).second) return;
  if (is_tensor) {
    if (visit) visit(THPVariable_Unpack(value.ptr()));
    return;
  }
  if (is_container && !PyFrozenSet_Check(value.ptr())) kept_.push_back(kept(value));
  if ((is_container || is_tuple) && PyObject_Size(value.ptr()) > most_items) return;  // such as a vocabulary
  if (PyDict_Check(value.ptr())) {
    for (const auto& [key, item] : py::reinterpret_borrow<py::dict>(value)) walk(item, depth + 1, visit);
  } else if (is_tuple || PyList_Check(value.ptr())) {
    for (const py::handle item : value) walk(item, depth + 1, visit);
  }
  if (is_plain(value)) {
    if (const py::object attributes = attributes_of(value)) walk(attributes, depth + 1, visit);
  }
}

KeptState::Kept KeptState::kept(py::handle container) {
  PyObject* copy = nullptr;
  if (PyDict_Check(container.ptr())) {
    copy = PyDict_Copy(container.ptr());
  } else if (PyList_Check(container.ptr())) {
    copy = PyList_GetSlice(container.ptr(), 0, PyList_GET_SIZE(container.ptr()));
  } else {
    copy = PySet_New(container.ptr());
  }
  if (copy == nullptr) throw py::error_already_set();
  return {py::reinterpret_borrow<py::object>(container), py::reinterpret_steal<py::object>(copy)};
}

void KeptState::restore() const {
  for (const Kept& hooks : hooks_) {
    if (PyDict_Size(hooks.container.ptr()) > PyDict_Size(hooks.before.ptr()))
      remove_added(hooks.container, hooks.before);
  }
  for (const Kept& kept : kept_) {
    if (!is_same(kept.container, kept.before)) put_back(kept.container, kept.before);
  }
}

bool KeptState::holds_graph() const {
  for (const Kept& kept : kept_) {
    if (PyAnySet_Check(kept.container.ptr()) || is_same(kept.container, kept.before)) continue;
    if (!PyDict_Check(kept.container.ptr())) {
      if (hangs_on_graph(kept.container)) return true;
      continue;
    }
    for (const auto& [key, item] : py::reinterpret_borrow<py::dict>(kept.container)) {
      const PyObject* const old = PyDict_GetItem(kept.before.ptr(), key.ptr());
      if (item.ptr() != old && hangs_on_graph(item)) return true;
    }
  }
  return false;
}

SwappedState::SwappedState(py::handle model) {
  state_ = std::make_unique<KeptState>(model, [this](const at::Tensor& tensor) {
    const bool is_own =
        tensor.is_leaf() && !tensor.is_view() && it3::detail::counts_writes(tensor) && tensor.has_storage();
    if (is_own && tensor.layout() == at::kStrided) swap_out(tensor);
  });
}

void SwappedState::give_back(const Swap& swapped) noexcept {
  try {
    if (!swapped.tensor.is_leaf()) swapped.tensor.detach_();
    swapped.tensor.set_data(swapped.own);
    swapped.tensor.set_requires_grad(swapped.requires_grad);
    it3::detail::set_version(swapped.tensor, swapped.version);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the others still come back
  }
}

SwappedState::~SwappedState() {
  const py::gil_scoped_acquire gil;
  const py::error_scope pending;  // an exception may be on its way to Python
  state_->restore();
  for (const Swap& swapped : swapped_) give_back(swapped);
  PyErr_Clear();
  state_.reset();
}

void SwappedState::swap_out(const at::Tensor& tensor) {
  if (!it3::detail::counts_writes(tensor)) {
    unlent_.keep(tensor);
    return;
  }
  const at::Tensor own = tensor.detach();
  const std::int64_t version = it3::detail::version_of(tensor);
  tensor.set_data(own.clone());
  swapped_.push_back({tensor, own, tensor.requires_grad(), version});
}

void SwappedState::drop_graphs() {
  const bool hangs =
      std::any_of(swapped_.begin(), swapped_.end(), [](const Swap& swapped) { return !swapped.tensor.is_leaf(); });
  if (!hangs && !state_->holds_graph()) return;
  state_->restore();
  for (const Swap& swapped : swapped_) {
    if (!swapped.tensor.is_leaf()) swapped.tensor.detach_();
    swapped.tensor.set_data(swapped.own.clone());
  }
}

}  // namespace it3::python
