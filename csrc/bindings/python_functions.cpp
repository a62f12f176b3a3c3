#include "python_functions.h"

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/autograd/python_variable.h>

#include "python_parts.h"
#include "script_from_python.h"

namespace it3::python {
namespace {

/// What a Python function of the user's returned, which must be a tensor.
at::Tensor tensor_from(const char* name, const py::object& result) {
  TORCH_CHECK_TYPE(
      THPVariable_Check(result.ptr()), name, " must return a tensor, but returned a ", Py_TYPE(result.ptr())->tp_name);
  return THPVariable_Unpack(result.ptr());
}

/// A Python function of two tensors, for calls without the GIL.
auto function_of_two(const char* name, py::handle function) {
  return [name, function](const at::Tensor& a, const at::Tensor& b) {
    const py::gil_scoped_acquire gil;
    return tensor_from(name, function(a, b));
  };
}

/// What of an it3.Embedder is looked up in each call: names that live as long as the process.
struct ModuleNames {
  PyObject* const dict = PyUnicode_InternFromString("__dict__");
  PyObject* const forward = PyUnicode_InternFromString("forward");
  PyObject* const extra_channels = PyUnicode_InternFromString("extra_channels");
  PyObject* const parameters = PyUnicode_InternFromString("_parameters");
  PyObject* const weight1 = PyUnicode_InternFromString("weight1");
  PyObject* const bias1 = PyUnicode_InternFromString("bias1");
  PyObject* const weight2 = PyUnicode_InternFromString("weight2");
  PyObject* const bias2 = PyUnicode_InternFromString("bias2");
  std::array<PyObject*, 4> const hooks = {
      PyUnicode_InternFromString("_forward_hooks"), PyUnicode_InternFromString("_forward_pre_hooks"),
      PyUnicode_InternFromString("_backward_hooks"), PyUnicode_InternFromString("_backward_pre_hooks")};
};

const ModuleNames& module_names() {
  static const ModuleNames all;
  return all;
}

/// What a dictionary has under a name; raises KeyError if nothing.
py::handle item(py::handle dict, PyObject* name) {
  PyObject* const found = PyDict_GetItemWithError(dict.ptr(), name);
  if (found == nullptr) {
    if (PyErr_Occurred() == nullptr) PyErr_SetObject(PyExc_KeyError, name);
    throw py::error_already_set();
  }
  return found;
}

/// it3.Embedder, or a class derived from it. Asks the module each time, as its weights, hooks and class may change.
class PythonEmbedder : public LazyEmbedder {
 public:
  explicit PythonEmbedder(py::handle module) : LazyEmbedder(module.ptr()), module_(module) {}

  bool is_built() const override {
    const py::gil_scoped_acquire gil;
    const at::Tensor bias2 =
        has_default_class() ? own_weight(module_names().bias2) : at::Tensor();  // gets its shape last
    return bias2.defined() ? bias2.numel() != 0 : module_.attr("is_built").cast<bool>();
  }

  /// Past Python's clear(), which a Ctrl-C could end halfway.
  std::function<void()> clearing() override {
    const py::gil_scoped_acquire gil;
    std::vector<std::pair<at::Tensor, at::Tensor>> weights;
    for (const auto& [name, member] : {
             std::pair(module_names().weight1, &EmbedderWeights::weight1),
             std::pair(module_names().bias1, &EmbedderWeights::bias1),
             std::pair(module_names().weight2, &EmbedderWeights::weight2),
             std::pair(module_names().bias2, &EmbedderWeights::bias2),
         }) {
      const at::Tensor own = own_weight(name);
      if (!own.defined()) continue;
      weights.emplace_back(own, empty_embedder_weights(own.options().requires_grad(false)).*member);
    }
    const py::handle with_clear = has_default_class() ? py::handle() : module_;  // which may have weights of its own
    return [weights, with_clear] {
      for (const auto& [weight, none] : weights) weight.set_data(none);
      if (!with_clear) return;
      const py::gil_scoped_acquire again;
      const py::error_scope pending;
      try {
        with_clear.attr("clear")();
      } catch (py::error_already_set& error) {
        error.discard_as_unraisable("clearing it3's embedder");
      }
    };
  }

  Layouts layouts() const override {
    const py::gil_scoped_acquire gil;
    const auto layout = [&](const char* name) {
      return module_.attr(name).cast<std::optional<Layout>>().value_or(Layout());
    };
    return {layout("prediction_layout"), layout("features_layout")};
  }

  void set_layouts(const Layouts& layouts) override {
    const py::gil_scoped_acquire gil;
    module_.attr("settle_layouts")(layouts.prediction, layouts.features);
  }

  EmbedderWeights weights() const override {
    const py::gil_scoped_acquire gil;
    if (const auto count = extra_channels(); count != 0) return {{}, {}, {}, {}, count};
    return {
        weight(module_names().weight1), weight(module_names().bias1), weight(module_names().weight2),
        weight(module_names().bias2)};
  }

  bool is_plain() const override {
    const py::gil_scoped_acquire gil;
    if (!has_default_class()) return false;
    const py::handle attributes = all_attributes();
    for (PyObject* const hooks : module_names().hooks) {
      if (PyObject_Size(item(attributes, hooks).ptr()) != 0) return false;
    }
    if (PyDict_Contains(attributes.ptr(), module_names().forward) != 0) return false;
    if (extra_channels() != 0) return true;
    const auto is_own = [&](PyObject* name) { return own_weight(name).defined(); };  // not one that is computed
    return is_own(module_names().weight1) && is_own(module_names().bias1) && is_own(module_names().weight2) &&
           is_own(module_names().bias2);
  }

  at::Tensor operator()(const at::Tensor& prediction, const at::Tensor& features) override {
    const py::gil_scoped_acquire gil;
    return tensor_from("embedder", module_(prediction, features));
  }

 private:
  /// Not a class of the user's own, nor one of a parametrization.
  bool has_default_class() const {
    return reinterpret_cast<PyObject*>(Py_TYPE(module_.ptr())) == python_parts().embedder_class.ptr();
  }
  /// Past torch.nn.Module.__getattr__, which takes as long as an operation of torch. The module keeps them.
  py::handle all_attributes() const { return py::getattr(module_, module_names().dict).release().dec_ref(); }
  /// 0 for one with weights.
  std::int64_t extra_channels() const {
    PyObject* const found = PyDict_GetItem(all_attributes().ptr(), module_names().extra_channels);
    return found != nullptr ? py::handle(found).cast<std::int64_t>() : 0;
  }
  /// A parameter; undefined where the weight is another attribute, or none.
  at::Tensor own_weight(PyObject* name) const {
    PyObject* const found = PyDict_GetItem(item(all_attributes(), module_names().parameters).ptr(), name);
    return found != nullptr && THPVariable_Check(found) ? THPVariable_Unpack(found) : at::Tensor();
  }
  at::Tensor weight(PyObject* name) const {
    if (at::Tensor own = own_weight(name); own.defined()) return own;
    const py::object other = py::getattr(module_, name);
    TORCH_CHECK_TYPE(
        THPVariable_Check(other.ptr()), "the embedder's ", PyUnicode_AsUTF8(name), " must be a tensor, not a ",
        Py_TYPE(other.ptr())->tp_name);
    return THPVariable_Unpack(other.ptr());
  }

  py::handle module_;
};

/// Whether an embedder is a program of torch.export that takes the features too.
bool is_program_of_two(const py::object& embedder) {
  return py::isinstance(embedder, python_parts().exported_model_class) && embedder.attr("input_count").cast<int>() == 2;
}

}  // namespace

EngineFunctions functions_from(
    const py::object& embedder, const py::object& combine_fn, const py::object& distance_fn) {
  EngineFunctions functions{.distance = distance_by_name("mse")};
  // TorchScript modules are run by the core: Python would run them by an executor whose results depend on how often it
  // has run.
  if (py::isinstance(embedder, python_parts().embedder_class)) {
    functions.embedder = std::make_shared<PythonEmbedder>(embedder);
  } else {
    functions.embed = script_function_from(embedder);
    if (functions.embed == nullptr) {
      functions.embed = [embed = py::handle(embedder), takes_both = is_program_of_two(embedder)](
                            const at::Tensor& prediction, const at::Tensor& features) {
        const py::gil_scoped_acquire gil;
        return tensor_from("embedder", takes_both ? embed(prediction, features) : embed(prediction));
      };
    }
  }
  if (!combine_fn.is_none()) {
    functions.combine = script_function_from(combine_fn);
    if (functions.combine == nullptr) functions.combine = function_of_two("combine_fn", combine_fn);
  }
  if (py::isinstance<py::str>(distance_fn)) {
    functions.distance = distance_by_name(distance_fn.cast<std::string>());
  } else if (DistanceFunction script = script_function_from(distance_fn)) {
    functions.distance = Distance(std::move(script));
  } else {
    functions.distance = Distance(DistanceFunction(function_of_two("distance_fn", distance_fn)));
  }
  return functions;
}

}  // namespace it3::python
