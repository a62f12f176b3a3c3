#include "module_tree.h"

#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

#include <it3/backend/layout.h>
#include <it3/backend/swapped_weights.h>

#include "support/nearest_name.h"
#include "support/write_count.h"

namespace it3::python {
namespace {

/// Calls visit(key, value) for the items of a mapping; the ones of a ScriptModule are no dicts.
template <typename Visit>
void for_each_item(const py::object& mapping, const Visit& visit) {
  if (PyDict_CheckExact(mapping.ptr())) {
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(mapping)) visit(key, value);
    return;
  }
  for (const py::handle item : mapping.attr("items")()) visit(item[py::int_(0)], item[py::int_(1)]);
}

std::string dotted(const std::string& prefix, py::handle name) {
  const auto last = name.cast<std::string>();
  return prefix.empty() ? last : prefix + "." + last;
}

void visit_modules(
    py::handle module, const std::string& path, std::unordered_set<PyObject*>& seen, const VisitModule& visit) {
  if (!seen.insert(module.ptr()).second) return;
  visit(path, module);
  for_each_item(module.attr("_modules"), [&](py::handle name, py::handle child) {
    if (!child.is_none()) visit_modules(child, dotted(path, name), seen, visit);
  });
}

bool is_of_normalization(py::handle module) {
  if (std::string_view(Py_TYPE(module.ptr())->tp_name) == "InterpreterModule") {  // a part of an exported program
    const py::object exported_from = module.attr("type_name")();
    const auto name = exported_from.is_none() ? std::string() : exported_from.cast<std::string>();
    return is_normalization(std::string_view(name).substr(name.rfind('.') + 1));
  }
  const py::handle bases(Py_TYPE(module.ptr())->tp_mro);
  for (const py::handle base : bases) {
    if (is_normalization(reinterpret_cast<PyTypeObject*>(base.ptr())->tp_name)) return true;
  }
  return false;
}

}  // namespace

void for_each_module(py::handle root, const VisitModule& visit) {
  std::unordered_set<PyObject*> seen;
  visit_modules(root, "", seen, visit);
}

py::object submodule_of(const py::object& root, const std::string& name) {
  py::object module = root;
  for (std::size_t begin = 0; !name.empty() && begin != std::string::npos;) {
    const std::size_t dot = name.find('.', begin);
    const py::object children = module.attr("_modules");
    const py::str part(name.substr(begin, dot == std::string::npos ? dot : dot - begin));
    const bool found = PyDict_CheckExact(children.ptr()) ? PyDict_GetItem(children.ptr(), part.ptr()) != nullptr
                                                         : children.contains(part);
    module = found ? py::object(children[part]) : py::none();
    if (module.is_none()) {
      std::vector<std::string> names;
      for_each_module(root, [&](const std::string& path, py::handle) {
        if (!path.empty()) names.push_back(path);
      });
      TORCH_CHECK_VALUE(!names.empty(), "the model has no layer '", name, "': it has no submodules");
      TORCH_CHECK_VALUE(
          false, "the model has no layer '", name, "'; did you mean '", it3::detail::nearest_name(name, names),
          "'? model.named_modules() lists all");
    }
    begin = dot == std::string::npos ? dot : dot + 1;
  }
  return module;
}

std::vector<NamedParameter> parameters_of(py::handle root) {
  std::vector<NamedParameter> parameters;
  std::unordered_set<at::TensorImpl*> known;
  for_each_module(root, [&](const std::string& path, py::handle module) {
    const bool of_normalization = is_of_normalization(module);
    for_each_item(module.attr("_parameters"), [&](py::handle name, py::handle value) {
      if (!THPVariable_Check(value.ptr())) return;
      TORCH_CHECK_VALUE(
          !std::string_view(Py_TYPE(value.ptr())->tp_name).starts_with("Uninitialized"), "the parameter '",
          dotted(path, name), "' of a lazy module has no shape yet; call the model once before it is adapted");
      const at::Tensor& tensor = THPVariable_Unpack(value.ptr());
      const bool has_gradients = tensor.is_floating_point() || tensor.is_complex();
      if (has_gradients && known.insert(tensor.unsafeGetTensorImpl()).second) {
        parameters.push_back({dotted(path, name), tensor, of_normalization});
      }
    });
  });
  return parameters;
}

std::vector<at::Tensor> buffers_of(py::handle root) {
  std::vector<at::Tensor> buffers;
  for_each_module(root, [&](const std::string&, py::handle module) {
    for_each_item(module.attr("_buffers"), [&](py::handle, py::handle value) {
      if (!THPVariable_Check(value.ptr())) return;
      const at::Tensor& tensor = THPVariable_Unpack(value.ptr());
      if (it3::detail::counts_writes(tensor)) buffers.push_back(tensor);
    });
  });
  return buffers;
}

std::vector<at::Tensor> batch_counters_of(const py::object& model) {
  std::vector<at::Tensor> counters;
  for_each_module(model, [&](const std::string&, py::handle module) {
    if (!is_of_normalization(module)) return;
    const py::object buffers = module.attr("_buffers");
    if (!buffers.contains("num_batches_tracked")) return;
    const py::object counter = buffers["num_batches_tracked"];
    if (THPVariable_Check(counter.ptr())) counters.push_back(THPVariable_Unpack(counter.ptr()));
  });
  return counters;
}

bool has_compiled_parts(const py::object& model) {
  bool has_some = false;
  for_each_module(model, [&](const std::string&, py::handle module) {
    const py::object of_instance = module.attr("__dict__").attr("get")("_compiled_call_impl");
    has_some = has_some || !of_instance.is_none() || module.attr("_modules").contains("_orig_mod");
  });
  return has_some;
}

SwappedBuffers::SwappedBuffers(const std::vector<py::object>& modules, const std::vector<at::Tensor>& swapped) {
  const c10::InferenceMode no_inference(false);
  std::unordered_set<PyObject*> seen;
  for (const auto& root : modules) {
    visit_modules(root, "", seen, [&](const std::string&, py::handle module) {
      const py::object buffers = module.attr("_buffers");
      for_each_item(buffers, [&](py::handle name, py::handle value) {
        slots_.push_back(
            {buffers, py::reinterpret_borrow<py::object>(name), py::reinterpret_borrow<py::object>(value)});
      });
    });
  }
  std::unordered_set<const void*> swapped_memory;
  for (const at::Tensor& t : swapped) swapped_memory.insert(t.unsafeGetTensorImpl()->storage().unsafeGetStorageImpl());
  std::unordered_map<PyObject*, py::object> copies;  // a buffer that two modules share stays shared
  std::vector<PyObject*> objects;
  std::vector<at::Tensor> values;
  for (const auto& slot : slots_) {
    if (!THPVariable_Check(slot.own.ptr()) || !copies.emplace(slot.own.ptr(), py::object()).second) continue;
    const at::Tensor value = THPVariable_Unpack(slot.own.ptr()).detach();
    const bool follows = !swapped_memory.empty() && value.unsafeGetTensorImpl()->has_storage() &&
                         swapped_memory.contains(value.unsafeGetTensorImpl()->storage().unsafeGetStorageImpl());
    if (follows) {  // it holds a part of the copy already, and later what that gives way to
      copies.erase(slot.own.ptr());
      continue;
    }
    objects.push_back(slot.own.ptr());
    values.push_back(value);
  }
  const std::vector<at::Tensor> cloned = copies_with_shared_memory(values);
  for (std::size_t i = 0; i < objects.size(); ++i) {
    copies[objects[i]] = py::reinterpret_steal<py::object>(THPVariable_Wrap(cloned[i]));
  }
  for (const auto& slot : slots_) {
    if (const auto copy = copies.find(slot.own.ptr()); copy != copies.end()) slot.buffers[slot.name] = copy->second;
  }
}

void SwappedBuffers::drop_graphs() {
  for (const auto& slot : slots_) {
    const py::object now = slot.buffers[slot.name];
    if (!THPVariable_Check(now.ptr()) || THPVariable_Unpack(now.ptr()).is_leaf()) continue;
    const at::Tensor value = THPVariable_Unpack(slot.own.ptr()).detach().clone();
    slot.buffers[slot.name] = py::reinterpret_steal<py::object>(THPVariable_Wrap(value));
  }
}

SwappedBuffers::~SwappedBuffers() {
  const py::gil_scoped_acquire gil;
  const py::error_scope pending;  // an exception may be on its way to Python
  for (const auto& slot : slots_) PyObject_SetItem(slot.buffers.ptr(), slot.name.ptr(), slot.own.ptr());
  PyErr_Clear();
  slots_.clear();
}

}  // namespace it3::python
