#include "python_setup.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "python_functions.h"

namespace it3::python {
namespace {

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

/// The names of attributes, which live as long as the process.
struct SetupNames {
  PyObject* const model = interned("model");
  PyObject* const layer = interned("features_layer_name");
  PyObject* const output = interned("output");
  PyObject* const layer_output = interned("layer_output");
  PyObject* const embedder = interned("embedder");
  PyObject* const combine_fn = interned("combine_fn");
  PyObject* const distance_fn = interned("distance_fn");
  PyObject* const neutral = interned("neutral");
  PyObject* const feedback = interned("feedback");
  PyObject* const in_dims = interned("in_dims");
  PyObject* const given_layouts = interned("_given_layouts");
  PyObject* const modules = interned("_modules");
};

const SetupNames& setup_names() {
  static const SetupNames all;
  return all;
}

/// The same object or, of names and places in outputs, an equal one. Functions can be strings' and tuples' subclasses,
/// of which equal ones need not do the same.
bool is_same(const py::object& a, const py::object& b) {
  if (a.ptr() == b.ptr()) return true;
  const auto is_value = [](const py::object& o) {
    return PyUnicode_CheckExact(o.ptr()) || PyLong_CheckExact(o.ptr()) || PyTuple_CheckExact(o.ptr());
  };
  return is_value(a) && Py_TYPE(a.ptr()) == Py_TYPE(b.ptr()) && a.equal(b);
}

std::string text_from(const char* name, const py::object& value) {
  TORCH_CHECK_TYPE(py::isinstance<py::str>(value), name, " must be a string, not a ", Py_TYPE(value.ptr())->tp_name);
  return value.cast<std::string>();
}

std::string without_compile(const std::string& layer) {
  constexpr std::string_view prefix = "_orig_mod.";
  return layer.starts_with(prefix) ? layer.substr(prefix.size()) : layer;
}

/// Functions are borrowed from the attributes, as others are.
Neutral neutral_from(const py::object& neutral) {
  if (neutral.is_none()) return {};
  if (py::isinstance<RandomOneHot>(neutral)) return RandomOneHot();
  if (py::isinstance<DrawnLabels>(neutral)) return neutral.cast<DrawnLabels>();
  if (PyCallable_Check(neutral.ptr()) != 0) {
    return NeutralFunction([function = py::handle(neutral)](const at::Tensor& prediction) {
      const py::gil_scoped_acquire gil;
      return py::module_::import("torch").attr("as_tensor")(function(prediction)).cast<at::Tensor>();
    });
  }
  const c10::InferenceMode no_inference(false);  // a tensor made in it could not be trained with
  return py::module_::import("torch").attr("as_tensor")(neutral).cast<at::Tensor>();
}

/// As they are given, with the engine or its embedder.
Layouts given_layouts(const Attributes& attributes, const EngineFunctions& functions) {
  const auto [prediction, features] =
      attributes.given_layouts.cast<std::pair<std::optional<Layout>, std::optional<Layout>>>();
  const Layouts of_embedder = functions.embedder != nullptr ? functions.embedder->layouts() : Layouts();
  return {prediction.value_or(of_embedder.prediction), features.value_or(of_embedder.features)};
}

}  // namespace

py::object without_compile(const py::object& model) {
  PyObject* const found = PyObject_GetAttrString(model.ptr(), "_orig_mod");
  if (found == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw py::error_already_set();
    PyErr_Clear();
    return model;
  }
  const auto inner = py::reinterpret_steal<py::object>(found);
  return py::isinstance(inner, py::module_::import("torch.nn").attr("Module")) ? inner : model;
}

Attributes Attributes::of(const py::object& face) {
  const auto attributes = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(face.ptr(), nullptr));
  PyObject* const children = PyDict_GetItem(attributes.ptr(), setup_names().modules);
  const auto attribute = [&](PyObject* name) {
    // A child of the torch.nn.Module comes past its __getattr__, which takes as long as an operation of torch.
    const bool is_child = children != nullptr && _PyType_Lookup(Py_TYPE(face.ptr()), name) == nullptr &&
                          PyDict_GetItem(attributes.ptr(), name) == nullptr;
    if (PyObject* const child = is_child ? PyDict_GetItem(children, name) : nullptr) {
      return py::reinterpret_borrow<py::object>(child);
    }
    PyObject* const found = PyObject_GetAttr(face.ptr(), name);
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
  };
  const SetupNames& all = setup_names();
  return {attribute(all.model),    attribute(all.layer),      attribute(all.output),       attribute(all.layer_output),
          attribute(all.embedder), attribute(all.combine_fn), attribute(all.distance_fn),  attribute(all.neutral),
          attribute(all.feedback), attribute(all.in_dims),    attribute(all.given_layouts)};
}

bool Attributes::have_network_of(const Attributes& others) const {
  return is_same(model, others.model) && is_same(layer, others.layer) && is_same(output, others.output) &&
         is_same(layer_output, others.layer_output);
}

bool Attributes::are(const Attributes& others) const {
  return have_network_of(others) && embedder.is(others.embedder) && combine_fn.is(others.combine_fn) &&
         is_same(distance_fn, others.distance_fn) && neutral.is(others.neutral) && is_same(feedback, others.feedback) &&
         in_dims.is(others.in_dims);
}

bool Attributes::have_layouts_of(const Attributes& others) const {
  return have_network_of(others) && embedder.is(others.embedder);
}

PythonSetup::PythonSetup(Attributes given, bool learned_probabilities, std::shared_ptr<Runners> known_runners)
    : attributes(std::move(given)),
      layer_name(without_compile(text_from("features_layer_name", attributes.layer))),
      runners(std::move(known_runners)),
      core{.functions = functions_from(attributes.embedder, attributes.combine_fn, attributes.distance_fn)} {
  if (runners == nullptr) {
    runners = std::make_shared<Runners>(
        without_compile(attributes.model), layer_name, attributes.output, attributes.layer_output);
  }
  core.layouts = given_layouts(attributes, core.functions);
  core.neutral = neutral_from(attributes.neutral);
  core.feedback = feedback_by_name(text_from("feedback", attributes.feedback));
  core.learned_probabilities = learned_probabilities;
  core.check();
}

PythonSetup::PythonSetup(Attributes given, bool learned_probabilities, const std::optional<KnownLayouts>& known)
    : PythonSetup(std::move(given), learned_probabilities, std::shared_ptr<Runners>()) {
  if (known && attributes.have_layouts_of(known->attributes)) core.layouts = known->layouts;
}

PythonSetup::PythonSetup(const Attributes& given, bool learned_probabilities, const PythonSetup& earlier)
    : PythonSetup(
          given,
          learned_probabilities,
          given.have_network_of(earlier.attributes) ? earlier.runners : std::shared_ptr<Runners>()) {
  if (!attributes.have_layouts_of(earlier.attributes)) return;
  core.layouts = earlier.core.layouts;
  core.is_looked_at =
      earlier.core.is_looked_at && attributes.combine_fn.is(earlier.attributes.combine_fn) && !core.lacks_classes();
}

PythonSetup::PythonSetup(const PythonSetup& other, EngineSetup changed)
    : attributes(other.attributes), layer_name(other.layer_name), runners(other.runners), core(std::move(changed)) {}

}  // namespace it3::python
