#include "engine_parts.h"

#include <exception>

#include <pybind11/gil_safe_call_once.h>
#include <torch/csrc/autograd/python_variable.h>

#include <it3/embedder.h>

#include "module_tree.h"
#include "script_from_python.h"
#include "shared_model_lock.h"

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

/// Whether a call of the embedder runs our code alone: not a class of the user's own, nor a parametrization.
bool is_default_embedder(py::handle embedder) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> type;
  type.call_once_and_store_result([] { return py::object(py::module_::import("it3.embedder").attr("Embedder")); });
  return reinterpret_cast<PyObject*>(Py_TYPE(embedder.ptr())) == type.get_stored().ptr();
}

/// The default embedder's weights, by which the core can embed without Python; nothing if it has no shape yet, or
/// calling it does more than that.
std::optional<EmbedderWeights> plain_weights(py::handle embedder) {
  if (!is_default_embedder(embedder)) return std::nullopt;
  for (const char* hooks : {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}) {
    if (PyObject_Size(py::object(embedder.attr(hooks)).ptr()) != 0) return std::nullopt;
  }
  if (py::dict(embedder.attr("__dict__")).contains("forward")) return std::nullopt;
  const py::dict parameters = embedder.attr("_parameters");
  const auto weight = [&](const char* name) { return THPVariable_Unpack(parameters[name].ptr()); };
  EmbedderWeights weights{weight("weight1"), weight("bias1"), weight("weight2"), weight("bias2")};
  return weights.weight1.numel() != 0 ? std::optional(std::move(weights)) : std::nullopt;
}

Embed embed_of(const EngineParts& parts) {
  if (parts.script_embedder) return parts.script_embedder;
  const py::handle embedder = parts.embedder;
  if (parts.embeds_to_features) {
    if (auto weights = plain_weights(embedder)) {
      return [weights = std::move(*weights), prediction_layout = parts.prediction_layout,
              features_layout = parts.features_layout](const at::Tensor& prediction, const at::Tensor& features) {
        return embed(prediction, features, weights, prediction_layout, features_layout);
      };
    }
  }
  return [embedder, both = parts.embeds_to_features](const at::Tensor& prediction, const at::Tensor& features) {
    return call_for_tensor("embedder", embedder, prediction, features, both);
  };
}

Combine combine_of(const EngineParts& parts) {
  if (parts.script_combine) return parts.script_combine;
  if (parts.combine_fn.is_none()) {
    return [layout = parts.features_layout](const at::Tensor& features, const at::Tensor& embedding) {
      return broadcast_add(features, embedding, layout);
    };
  }
  return [combine = py::handle(parts.combine_fn)](const at::Tensor& features, const at::Tensor& embedding) {
    return call_for_tensor("combine_fn", combine, features, embedding, true);
  };
}

Distance distance_of(const EngineParts& parts) {
  if (parts.script_distance) return Distance(parts.script_distance);
  if (py::isinstance<py::str>(parts.distance_fn)) {
    return distance_by_name(parts.distance_fn.cast<std::string>(), parts.prediction_layout);
  }
  return Distance([distance = py::handle(parts.distance_fn)](const at::Tensor& second, const at::Tensor& reference) {
    return call_for_tensor("distance_fn", distance, second, reference, true);
  });
}

}  // namespace

UnbuiltOnError::UnbuiltOnError(const EngineParts& parts) : exceptions_(std::uncaught_exceptions()) {
  if (!parts.embeds_to_features) return;
  const auto has_shape = [&] { return parts.embedder.attr("is_built").cast<bool>(); };
  const auto lock = SharedModelLock::of(parts.embedder);
  {
    const SharedModelLock::Hold after_whoever_shapes_it(lock, SharedModelLock::Use::reading);
  }
  if (has_shape()) return;
  hold_.emplace(lock, SharedModelLock::Use::alone);
  if (has_shape()) {
    hold_.reset();
  } else {
    embedder_ = parts.embedder;
  }
}

UnbuiltOnError::~UnbuiltOnError() {
  if (!embedder_ || std::uncaught_exceptions() == exceptions_) return;
  const py::error_scope pending;
  try {
    embedder_.attr("clear")();
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("clearing it3's embedder");
  }
}

EmbedderBuffers::EmbedderBuffers(const EngineParts& parts) {
  if (parts.script_embedder || is_default_embedder(parts.embedder)) return;
  if (!py::hasattr(parts.embedder, "_buffers") || buffers_of(parts.embedder).empty()) return;
  hold_.emplace(SharedModelLock::of(parts.embedder), SharedModelLock::Use::alone);
  buffers_.emplace(std::vector<py::object>{parts.embedder});
}

Method method_of(const EngineParts& parts, const NetworkCall& call) {
  const bool is_default = is_default_embedder(parts.embedder) && parts.combine_fn.is_none();
  Method method = {
      embed_of(parts), combine_of(parts), distance_of(parts), /*takes_any_layout=*/is_default,
      parts.neutral.value_or(at::Tensor())};
  if (is_default && !method.distance.name.empty()) {
    if (const auto weights = plain_weights(parts.embedder)) {
      method.reads = {weights->weight1, weights->bias1, weights->weight2, weights->bias2};
    }
  }
  method.prediction_layout = parts.prediction_layout;
  method.feeds_probabilities = parts.feeds_probabilities;
  method.in_dims = call.in_dims;
  return method;
}

}  // namespace it3::python
