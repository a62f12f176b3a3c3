#include "engine_parts.h"

#include <torch/csrc/autograd/python_variable.h>

#include <it3/embedder.h>

#include "python_network.h"
#include "script_from_python.h"

namespace it3::python {
namespace {

/// What a Python function of the user's returned, which must be a tensor.
at::Tensor call_for_tensor(
    const char* name, py::handle function, const at::Tensor& a, const at::Tensor& b, bool takes_both) {
  const py::gil_scoped_acquire gil;
  const py::object result = takes_both ? function(a, b) : function(a);
  TORCH_CHECK_TYPE(
      THPVariable_Check(result.ptr()), name, " must return a tensor, but returned a ", Py_TYPE(result.ptr())->tp_name);
  return THPVariable_Unpack(result.ptr());
}

}  // namespace

std::pair<std::shared_ptr<Network>, Inputs> network_of(const EngineParts& parts, const py::object& inputs) {
  if (parts.script) return {*parts.script, script_inputs_from(**parts.script, inputs)};
  const bool is_module = py::hasattr(parts.embeder, "_buffers");
  const py::object embeder = is_module ? parts.embeder : py::none();
  return {std::make_shared<PythonNetwork>(parts.model, parts.layer, parts.layer_name, embeder, inputs), Inputs()};
}

Method method_of(const EngineParts& parts) {
  const py::handle embeder = parts.embeder, combine = parts.combine_fn, distance = parts.distance_fn;
  Method method{
      [embeder, both = parts.embeds_to_features](const at::Tensor& prediction, const at::Tensor& features) {
        return call_for_tensor("embeder", embeder, prediction, features, both);
      },
      [combine](const at::Tensor& features, const at::Tensor& embedding) {
        return call_for_tensor("combine_fn", combine, features, embedding, true);
      },
      py::isinstance<py::str>(distance) ? distance_by_name(distance.cast<std::string>())
                                        : Distance([distance](const at::Tensor& second, const at::Tensor& reference) {
                                            return call_for_tensor("distance_fn", distance, second, reference, true);
                                          })};
  if (combine.is_none()) {
    method.combine = [layout = parts.features_layout](const at::Tensor& features, const at::Tensor& embedding) {
      return broadcast_add(features, embedding, layout);
    };
  }
  return method;
}

}  // namespace it3::python
