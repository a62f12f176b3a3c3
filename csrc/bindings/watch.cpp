#include "watch.h"

#include <array>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

namespace it3::python {
namespace {

constexpr std::size_t most_bytes_of_tensors = 1024;

/// Calls visit for what is in a container until it returns false. Whether it never did.
template <typename Visit>
bool for_each_in_container(py::handle container, const Visit& visit) {
  if (PyDict_Check(container.ptr())) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(container.ptr(), &at, &key, &value) != 0;) {
      if (!visit(key) || !visit(value)) return false;
    }
    return true;
  }
  if (PyList_Check(container.ptr()) || PyTuple_Check(container.ptr())) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(container.ptr()); ++i) {
      if (!visit(PySequence_Fast_GET_ITEM(container.ptr(), i))) return false;
    }
    return true;
  }
  for (const py::handle item : container) {  // a set or a deque
    if (!visit(item.ptr())) return false;
  }
  return true;
}

/// The bytes of an object with a buffer.
std::string bytes_of_buffer(py::handle object) {
  Py_buffer view;
  if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_FULL_RO) != 0) throw py::error_already_set();
  std::string bytes(static_cast<std::size_t>(view.len), '\0');
  const int failed = PyBuffer_ToContiguous(bytes.data(), &view, view.len, 'C');
  for (int i = 0; i < view.ndim; ++i) bytes += c10::str("|", view.shape[i]);
  bytes += view.format != nullptr ? view.format : "";
  PyBuffer_Release(&view);
  if (failed != 0) throw py::error_already_set();
  return bytes;
}

/// What identifies a tensor's values as far as that is cheap: its memory, and all bytes of a small one, which can be
/// written to where no version tells.
std::string bytes_of_tensor(const at::Tensor& t) {
  if (t.layout() != at::kStrided || !t.has_storage()) return "";
  const void* const data = t.const_data_ptr();
  std::string bytes(reinterpret_cast<const char*>(&data), sizeof(data));
  if (t.is_cpu() && t.is_contiguous() && t.nbytes() <= most_bytes_of_tensors) {
    bytes.append(static_cast<const char*>(data), t.nbytes());
  }
  return bytes;
}

}  // namespace

Watch::Kind Watch::kind_of(const std::string& name) {
  using enum Kind;
  constexpr std::array<std::pair<std::string_view, Kind>, 8> kinds = {
      {{"item", item},
       {"class", type},
       {"slot", slot},
       {"cell", cell},
       {"function", function},
       {"contents", contents},
       {"bytes", bytes},
       {"tensor", tensor}}};
  for (const auto& [known, kind] : kinds) {
    if (name == known) return kind;
  }
  TORCH_CHECK_VALUE(false, "there is no fact of the kind '", name, "'");
}

/// Calls visit for what is there now, null where there is nothing, until it returns false. Whether it never did.
template <typename Visit>
bool Watch::for_each_value(Kind kind, py::handle holder, py::handle key, const Visit& visit) {
  switch (kind) {
    case Kind::item: return visit(PyDict_GetItemWithError(holder.ptr(), key.ptr()));
    case Kind::type: return visit(_PyType_Lookup(reinterpret_cast<PyTypeObject*>(holder.ptr()), key.ptr()));
    case Kind::slot: {
      PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(holder.ptr()));
      const auto value =
          py::reinterpret_steal<py::object>(Py_TYPE(key.ptr())->tp_descr_get(key.ptr(), holder.ptr(), type));
      if (!value) PyErr_Clear();  // it holds nothing
      return visit(value.ptr());
    }
    case Kind::cell: return visit(PyCell_GET(holder.ptr()));
    case Kind::function:
      return visit(PyFunction_GET_CODE(holder.ptr())) && visit(PyFunction_GET_DEFAULTS(holder.ptr())) &&
             visit(PyFunction_GET_KW_DEFAULTS(holder.ptr()));
    case Kind::contents: return for_each_in_container(holder, visit);
    case Kind::bytes:
    case Kind::tensor: return true;
  }
  return true;
}

void Watch::look(Seen& seen) {
  for_each_value(seen.kind, seen.holder, seen.key, [&](PyObject* value) {
    seen.values.emplace_back(value, false);
    return true;
  });
  if (seen.kind == Kind::bytes) seen.bytes = bytes_of_buffer(seen.holder);
  if (seen.kind == Kind::tensor) {
    seen.values.emplace_back(seen.holder, true);
    seen.bytes = bytes_of_tensor(THPVariable_Unpack(seen.holder.ptr()));
  }
}

bool Watch::is_same(const Seen& seen) {
  std::size_t i = 0;
  const bool all = for_each_value(seen.kind, seen.holder, seen.key, [&](PyObject* value) {
    if (i == seen.values.size()) return false;
    const Fact& fact = seen.values[i++];
    if (value == nullptr || !fact.object) return value == fact.object.ptr();
    return fact.equals(value, false);
  });
  if (seen.kind == Kind::bytes) return bytes_of_buffer(seen.holder) == seen.bytes;
  if (seen.kind == Kind::tensor) {
    return seen.values[0].equals(seen.holder, true) &&
           bytes_of_tensor(THPVariable_Unpack(seen.holder.ptr())) == seen.bytes;
  }
  return all && i == seen.values.size();
}

Watch::Watch(const py::list& facts) : default_dtype_(c10::get_default_dtype()) {
  facts_.reserve(facts.size());
  for (const py::handle item : facts) {
    const auto fact = py::reinterpret_borrow<py::tuple>(item);
    Seen seen{kind_of(fact[0].cast<std::string>()), fact[1], fact[2], {}, ""};
    look(seen);
    facts_.push_back(std::move(seen));
  }
}

bool Watch::has_changed() const {
  if (c10::get_default_dtype() != default_dtype_) return true;
  for (const Seen& seen : facts_) {
    if (!is_same(seen)) return true;
  }
  return false;
}

std::function<bool()> asking(const std::shared_ptr<Watch>& watch) {
  if (watch == nullptr) return nullptr;
  auto let_go = [own = std::shared_ptr<Watch>(watch)](Watch*) mutable {
    const py::gil_scoped_acquire gil;
    own.reset();
  };
  return [held = std::shared_ptr<Watch>(watch.get(), std::move(let_go))] { return held->has_changed(); };
}

}  // namespace it3::python
