#include "options_from_python.h"

#include <algorithm>

#include <c10/util/Exception.h>

namespace it3::python {
namespace {

/// A sequence that has a length; arrays and tensors without dimensions have none.
bool is_list(py::handle value) {
  if (!PySequence_Check(value.ptr())) return false;
  const bool has_length = PyObject_Size(value.ptr()) >= 0;
  PyErr_Clear();
  return has_length;
}

/// The name of the type of a value, or of its dtype without "torch.", if it is a scalar of torch or NumPy.
std::string kind_of(py::handle value) {
  if (!py::hasattr(value, "dtype")) return Py_TYPE(value.ptr())->tp_name;
  const auto dtype = py::str(value.attr("dtype")).cast<std::string>();
  return dtype.substr(dtype.rfind('.') + 1);
}

bool is_bool(py::handle value) { return kind_of(value) == "bool"; }
bool is_complex(py::handle value) { return kind_of(value).starts_with("complex"); }

/// The value of what Python takes for an integer. Tensors have __index__ whatever their dtype, so the type does not
/// tell.
std::optional<std::int64_t> whole_number(const std::string& name, py::handle value) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  PyErr_Clear();
  if (!index) return std::nullopt;
  int overflow = 0;
  const std::int64_t whole = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  TORCH_CHECK_VALUE(
      overflow == 0, name, " cannot be ", py::repr(value).cast<std::string>(), ", which does not fit into 64 bits");
  return whole;
}

std::optional<double> number(py::handle value) {
  if (is_bool(value) || is_complex(value) || py::isinstance<py::str>(value)) return std::nullopt;
  const auto real = py::reinterpret_steal<py::object>(PyNumber_Float(value.ptr()));
  PyErr_Clear();
  if (!real) return std::nullopt;
  return real.cast<double>();
}

[[noreturn]] void unusable(const std::string& name, py::handle value) {
  const auto& infos = option_infos();
  const auto info = std::find_if(infos.begin(), infos.end(), [&](const OptionInfo& i) { return i.name == name; });
  const std::string accepted = info != infos.end() ? "; it must be " + info->accepted : "";
  C10_THROW_ERROR(
      TypeError,
      c10::str(
          name, " cannot be ", py::repr(value).cast<std::string>(), ", a ", Py_TYPE(value.ptr())->tp_name, accepted));
}

OptionValue value_from(const std::string& name, py::handle value) {
  if (value.is_none()) return std::monostate{};
  if (PyBool_Check(value.ptr())) return value.cast<bool>();
  if (py::isinstance<py::str>(value)) return value.cast<std::string>();
  if (py::isinstance<py::bytes>(value)) unusable(name, value);
  if (!is_list(value)) {
    if (is_bool(value)) return PyObject_IsTrue(value.ptr()) == 1;
    if (const auto whole = whole_number(name, value)) return *whole;
    if (const auto real = number(value)) return *real;
    unusable(name, value);
  }
  std::vector<double> numbers;
  std::vector<std::string> texts;
  for (const py::handle item : value) {
    if (py::isinstance<py::str>(item)) {
      texts.push_back(item.cast<std::string>());
    } else if (const auto real = number(item)) {
      numbers.push_back(*real);
    } else {
      unusable(name, value);
    }
  }
  if (!numbers.empty() && !texts.empty()) unusable(name, value);
  if (!numbers.empty()) return numbers;
  return texts;
}

std::vector<std::pair<std::string, OptionValue>> settings_from(const py::dict& values) {
  std::vector<std::pair<std::string, OptionValue>> settings;
  for (const auto& [key, value] : values) {
    TORCH_CHECK_TYPE(
        py::isinstance<py::str>(key), "names of options are strings, not ", py::repr(key).cast<std::string>());
    const auto name = key.cast<std::string>();
    settings.emplace_back(name, value_from(name, value));
  }
  return settings;
}

/// The dictionary with `copy_model` for `online`, which is another spelling of its opposite, or says nothing by None.
py::dict in_one_spelling(const py::dict& values) {
  if (!values.contains("online")) return values;
  Options::check_spellings(settings_from(values));
  py::dict result;
  for (const auto& [key, value] : values) {
    if (!key.equal(py::str("online"))) {
      result[key] = value;
    } else if (!value.is_none()) {
      Options options;
      options.set("online", value_from("online", value));
      result["copy_model"] = options.copy_model;
    }
  }
  return result;
}

/// Whether a value stays as it is while it is the same object.
bool is_constant(PyObject* value) {
  if (PyTuple_CheckExact(value)) {
    PyObject* const* const items = PySequence_Fast_ITEMS(value);
    return std::all_of(items, items + PyTuple_GET_SIZE(value), is_constant);
  }
  return value == Py_None || PyBool_Check(value) || PyLong_CheckExact(value) || PyFloat_CheckExact(value) ||
         PyUnicode_CheckExact(value);
}

/// Names and values, in their order.
std::vector<PyObject*> items_of(const py::dict& values) {
  std::vector<PyObject*> items;
  items.reserve(2 * values.size());
  PyObject *name = nullptr, *value = nullptr;
  for (Py_ssize_t at = 0; PyDict_Next(values.ptr(), &at, &name, &value) != 0;) {
    items.push_back(name);
    items.push_back(value);
  }
  return items;
}

}  // namespace

Options RecentOptions::of(const py::dict& values) {
  const std::vector<PyObject*> items = items_of(values);
  const auto is_same = [](const py::object& known, PyObject* item) { return known.ptr() == item; };
  if (std::equal(items_.begin(), items_.end(), items.begin(), items.end(), is_same)) return options_;
  // Reading other values may run code, which could change the dictionary.
  if (!std::all_of(items.begin(), items.end(), is_constant)) return options_from(values);
  Options options = options_from(values);
  items_.clear();
  for (PyObject* const item : items) items_.push_back(py::reinterpret_borrow<py::object>(item));
  options_ = options;
  return options;
}

Options options_from(const py::dict& given) {
  const py::dict values = in_one_spelling(given);
  Options options;
  for (const auto& [name, value] : settings_from(values)) options.set(name, value);
  options.validate();
  return options;
}

py::dict overridden(const py::dict& given, const py::dict& given_others) {
  const py::dict values = in_one_spelling(given), others = in_one_spelling(given_others);
  Options options;
  for (const auto& [name, value] : settings_from(values)) {
    if (!others.contains(name.c_str())) options.set(name, value);
  }
  options.override_with(settings_from(others));
  const py::dict set = to_python(options);
  py::dict result;
  for (const auto& [key, value] : values) {
    if (value.is_none() || set.contains(key)) result[key] = value;
  }
  for (const auto& [key, value] : others) result[key] = value;
  return result;
}

py::dict to_python(const Options& options) {
  const py::dict values;
  for (const auto& [name, value] : options.values()) {
    values[py::str(name)] = std::visit(
        [](const auto& v) -> py::object {
          if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
            return py::none();
          } else {
            return py::cast(v);
          }
        },
        value);
  }
  return values;
}

}  // namespace it3::python
