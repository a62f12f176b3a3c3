#include "output_choice.h"

#include <vector>

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

#include "python_values.h"

namespace it3::python {
namespace {

using Step = OutputPath::value_type;

bool is_tensor_itself(py::handle object) { return THPVariable_Check(object.ptr()); }

py::object to_python(const Step& step) {
  if (const auto* index = std::get_if<std::int64_t>(&step)) return py::int_(*index);
  return py::str(std::get<std::string>(step));
}

std::string to_text(const OutputPath& path) {
  if (path.size() == 1) return py::repr(to_python(path[0])).cast<std::string>();
  const py::tuple steps(path.size());
  for (std::size_t i = 0; i < path.size(); ++i) steps[i] = to_python(path[i]);
  return py::repr(steps).cast<std::string>();
}

/// The entries of a tuple, list, mapping or dataclass, by the step that leads there. A packed sequence has one, as its
/// other tensors are no values.
std::vector<std::pair<Step, py::object>> entries_of(py::handle object) {
  std::vector<std::pair<Step, py::object>> entries;
  const auto add_attribute = [&](const std::string& name) {
    if (py::hasattr(object, name.c_str())) entries.emplace_back(name, object.attr(name.c_str()));
  };
  if (is_packed_sequence(object)) {
    add_attribute("data");
  } else if (is_sequence(object)) {
    std::int64_t index = 0;
    for (const py::handle item : object) entries.emplace_back(index++, py::reinterpret_borrow<py::object>(item));
  } else if (is_mapping(object)) {
    for (const py::handle key : py::list(object.attr("keys")())) {
      if (py::isinstance<py::str>(key)) entries.emplace_back(key.cast<std::string>(), object[key]);
      if (PyLong_CheckExact(key.ptr())) entries.emplace_back(key.cast<std::int64_t>(), object[key]);
    }
  } else if (is_dataclass(object)) {
    for (const auto& [name, field] : py::dict(object.attr("__dataclass_fields__"))) {
      add_attribute(name.cast<std::string>());
    }
  }
  return entries;
}

/// The entry at a step, by which names of a NamedTuple and places in a transformers.ModelOutput are found too; null if
/// there is none.
std::optional<std::pair<Step, py::object>> find_entry(py::handle object, const Step& step) {
  const auto entries = entries_of(object);
  for (const auto& entry : entries) {
    if (entry.first == step) return entry;
  }
  const auto size = static_cast<std::int64_t>(entries.size());
  if (const auto* index = std::get_if<std::int64_t>(&step)) {
    if (is_sequence(object) && *index < 0 && *index >= -size) return entries[static_cast<std::size_t>(*index + size)];
    if (!is_sequence(object) && py::hasattr(object, "to_tuple")) {
      std::int64_t place = 0;
      for (const auto& entry : entries) {
        if (!entry.second.is_none() && place++ == *index) return entry;
      }
    }
  } else if (is_sequence(object) && py::hasattr(object, "_fields")) {
    std::size_t place = 0;
    for (const py::handle field : py::object(object.attr("_fields"))) {
      if (field.cast<std::string>() == std::get<std::string>(step)) return entries.at(place);
      ++place;
    }
  }
  return std::nullopt;
}

void find_tensors(
    py::handle object,
    const OutputPath& path,
    const IsTensor& is_tensor,
    std::vector<std::pair<OutputPath, py::object>>& found) {
  if (is_tensor(object)) {
    for (const auto& known : found) {
      if (known.second.is(object)) return;
    }
    found.emplace_back(path, py::reinterpret_borrow<py::object>(object));
    return;
  }
  for (const auto& [step, value] : entries_of(object)) {
    OutputPath longer = path;
    longer.push_back(step);
    find_tensors(value, longer, is_tensor, found);
  }
}

std::string list_of(const std::vector<std::pair<OutputPath, py::object>>& tensors) {
  std::string text;
  for (const auto& [path, tensor] : tensors) {
    const std::string shape =
        is_tensor_itself(tensor) ? c10::str(" of shape ", THPVariable_Unpack(tensor.ptr()).sizes()) : "";
    text += (text.empty() ? "" : ", ") + to_text(path) + shape;
  }
  return text;
}

[[noreturn]] void raise_nowhere(
    py::handle object, const OutputPath& path, const char* option, const IsTensor& is_tensor) {
  std::vector<std::pair<OutputPath, py::object>> found;
  find_tensors(object, {}, is_tensor, found);
  TORCH_CHECK_VALUE(
      false, option, " is ", to_text(path), ", but the ", type_name(object), " that was returned has no tensor there; ",
      found.empty() ? "it has no tensors at all" : "it has tensors at " + list_of(found));
}

/// An object like another with one entry replaced.
py::object with_entry(py::handle object, const Step& step, const py::object& value) {
  if (is_packed_sequence(object)) return object.attr("_replace")(py::arg("data") = value);
  if (is_sequence(object)) {
    const py::list items(py::reinterpret_borrow<py::object>(object));
    items[static_cast<std::size_t>(std::get<std::int64_t>(step))] = value;
    return same_sequence(object, items);
  }
  py::object copy = py::module_::import("copy").attr("copy")(object);
  if (is_mapping(object)) {
    copy[to_python(step)] = value;
  } else {  // a dataclass, which may be frozen
    py::module_::import("builtins").attr("object").attr("__setattr__")(copy, to_python(step), value);
  }
  return copy;
}

/// Null if the path leads nowhere.
py::object replace_along(
    py::handle object,
    const OutputPath& path,
    std::size_t at,
    const ReplaceObject& replace,
    const IsTensor& is_tensor) {
  if (at == path.size()) return is_tensor(object) ? replace(object) : py::object();
  if (is_tensor(object)) return {};
  const auto entry = find_entry(object, path[at]);
  if (!entry) return {};
  const py::object replaced = replace_along(entry->second, path, at + 1, replace, is_tensor);
  return replaced ? with_entry(object, entry->first, replaced) : py::object();
}

}  // namespace

OutputChoice output_choice(py::handle chosen, const char* option, bool may_be_function) {
  if (!chosen || chosen.is_none()) return {};
  OutputChoice choice;
  const auto add = [&](py::handle step) {
    if (py::isinstance<py::str>(step)) {
      choice.path->emplace_back(step.cast<std::string>());
    } else if (PyLong_Check(step.ptr()) && !PyBool_Check(step.ptr())) {
      choice.path->emplace_back(step.cast<std::int64_t>());
    } else {
      TORCH_CHECK_TYPE(
          false, option, " must be an index, a key, or a tuple of these such as (1, 'logits')",
          may_be_function ? ", or a function of what the model returns" : "", ", not ",
          py::repr(chosen).cast<std::string>());
    }
  };
  if (may_be_function && PyCallable_Check(chosen.ptr()) == 1 && !PyType_Check(chosen.ptr())) {
    choice.function = py::reinterpret_borrow<py::object>(chosen);
    return choice;
  }
  choice.path.emplace();
  if (!is_sequence(chosen)) {
    add(chosen);
    return choice;
  }
  for (const py::handle step : chosen) add(step);
  return choice;
}

py::object chosen_output(py::handle output, const OutputChoice& choice, const IsTensor& is_tensor) {
  if (!choice.function.is_none()) {
    py::object chosen = choice.function(output);
    TORCH_CHECK_TYPE(
        is_tensor(chosen), "the function given as output must return a tensor, but returned a ", type_name(chosen));
    return chosen;
  }
  if (choice.path) {
    py::object found;
    const ReplaceObject take = [&](py::handle tensor) { return found = py::reinterpret_borrow<py::object>(tensor); };
    replace_along(output, *choice.path, 0, take, is_tensor);
    if (!found) raise_nowhere(output, *choice.path, "output", is_tensor);
    return found;
  }
  if (is_tensor(output)) return py::reinterpret_borrow<py::object>(output);
  std::vector<std::pair<OutputPath, py::object>> found;
  find_tensors(output, {}, is_tensor, found);
  TORCH_CHECK_TYPE(
      !found.empty(), "the model returned a ", type_name(output),
      "; it must return a tensor, or a tuple, list, mapping or dataclass with the prediction in it");
  TORCH_CHECK_VALUE(
      found.size() == 1, "the model returned a ", type_name(output), " with ", found.size(),
      " tensors; say which is the prediction, as output=", to_text(found[0].first), ". There are ", list_of(found));
  return found[0].second;
}

at::Tensor prediction_in(py::handle output, const OutputChoice& choice) {
  return THPVariable_Unpack(chosen_output(output, choice, is_tensor_itself).ptr());
}

py::object replace_at(
    py::handle object,
    const std::optional<OutputPath>& path,
    const ReplaceObject& replace,
    const IsTensor& is_tensor,
    const std::string& layer_name) {
  OutputPath where;
  if (path) {
    where = *path;
  } else {
    std::vector<std::pair<OutputPath, py::object>> found;
    find_tensors(object, {}, is_tensor, found);
    TORCH_CHECK_TYPE(
        !found.empty(), "the layer '", layer_name, "' returned a ", type_name(object),
        "; features can be injected into a tensor, or the first tensor in a tuple, list or mapping");
    where = found[0].first;
  }
  py::object replaced = replace_along(object, where, 0, replace, is_tensor);
  if (!replaced) raise_nowhere(object, where, "layer_output", is_tensor);
  return replaced;
}

}  // namespace it3::python
