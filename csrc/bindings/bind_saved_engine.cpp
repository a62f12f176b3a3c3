
#include <it3/backend/saved_engine.h>

#include "bindings.h"
#include "engine_parts.h"
#include "in_dims_from_python.h"
#include "options_from_python.h"
#include "script_from_python.h"
#include "translated.h"

namespace it3::python {
namespace {

Notes notes_of(const EngineParts& parts, const py::object& example_inputs) {
  const NetworkCall call = parts.runners->resolve(example_inputs, parts.in_dims);
  const Method method = method_of(parts, call);
  const py::gil_scoped_release no_gil;
  return take_notes(*parts.runners->script_network(), method, call.inputs);
}

/// The parts are TorchScript modules, but for the default ones.
SavedEngine saved_engine_from(
    const EngineParts& parts, const py::dict& options, const py::object& example_inputs, const py::dict& facts) {
  const auto network = parts.runners->script_network();
  TORCH_CHECK(network != nullptr, "the model must have been exported to TorchScript");
  SavedEngine saved{
      network->module(),
      network->layer(),
      EmbedderWeights{},
      parts.prediction_layout,
      parts.features_layout,
      std::nullopt,
      std::string(),
      options_from(options),
      parts.neutral.value_or(at::Tensor()),
      notes_of(parts, example_inputs)};
  saved.output = network->output();
  saved.layer_output = network->layer_output();
  if (!parts.in_dims.is_none()) saved.in_dims = in_dims_from(parts.in_dims);
  saved.feedback = feedback_by_name(facts["feedback"].cast<std::string>());
  saved.is_trained = facts["is_trained"].cast<bool>();
  saved.learned_probabilities = facts["learned_probabilities"].cast<bool>();
  if (parts.embeds_to_features) {
    const auto weight = [&](const char* name) { return parts.embedder.attr(name).cast<at::Tensor>(); };
    saved.embedder = EmbedderWeights{weight("weight1"), weight("bias1"), weight("weight2"), weight("bias2")};
  } else {
    saved.embedder = script_module_from(parts.embedder);
  }
  if (!parts.combine_fn.is_none()) saved.combine = script_module_from(parts.combine_fn);
  if (py::isinstance<py::str>(parts.distance_fn)) {
    saved.distance = parts.distance_fn.cast<std::string>();
  } else {
    saved.distance = script_module_from(parts.distance_fn);
  }
  return saved;
}

void save(
    const std::string& path,
    const EngineParts& parts,
    const py::dict& options,
    const py::object& example_inputs,
    const py::dict& facts) {
  save_engine(saved_engine_from(parts, options, example_inputs, facts), path);
}

py::dict to_python(const Notes& notes) {
  using py::literals::operator""_a;
  return py::dict(
      "model"_a = notes.model, "inputs"_a = notes.inputs, "prediction"_a = notes.prediction,
      "features"_a = notes.features);
}

py::object to_python(const std::optional<OutputPath>& path) {
  return path ? py::object(py::tuple(py::cast(*path))) : py::object(py::none());
}

/// What a file holds beside TorchScript modules, which Python loads itself.
py::dict load(const std::string& path) {
  const SavedEngine engine = load_engine(path, c10::kCPU);
  py::object embedder = py::none(), distance = py::none();
  if (const auto* weights = std::get_if<EmbedderWeights>(&engine.embedder)) {
    embedder = py::make_tuple(weights->weight1, weights->bias1, weights->weight2, weights->bias2);
  }
  if (const auto* name = std::get_if<std::string>(&engine.distance)) distance = py::str(*name);
  using py::literals::operator""_a;
  return py::dict(
      "layer"_a = engine.layer, "embedder"_a = embedder, "prediction_layout"_a = engine.prediction_layout,
      "features_layout"_a = engine.features_layout, "distance"_a = distance,
      "options"_a = python::to_python(engine.options),
      "neutral"_a = engine.neutral.defined() ? py::cast(engine.neutral) : py::none(),
      "output"_a = to_python(engine.output), "layer_output"_a = to_python(engine.layer_output),
      "in_dims"_a = engine.in_dims ? python::to_python(*engine.in_dims) : py::none(),
      "feedback"_a = std::string(to_string(engine.feedback)), "is_trained"_a = engine.is_trained,
      "learned_probabilities"_a = engine.learned_probabilities, "notes"_a = to_python(engine.notes));
}

}  // namespace

void bind_saved_engine(py::module_& module) {
  module.def(
      "save_engine", translated(save), py::arg("path"), py::arg("parts"), py::arg("options"), py::arg("example_inputs"),
      py::arg("facts"), "Writes an engine of TorchScript parts to one archive.");
  module.def(
      "load_engine", translated(load), py::arg("path"),
      "Reads what save_engine() wrote, but for the TorchScript modules, which torch.jit.load reads.");
}

}  // namespace it3::python
