#include <torch/csrc/Exceptions.h>

#include <it3/saved_engine.h>

#include "bindings.h"
#include "options_from_python.h"
#include "script_from_python.h"

namespace it3::python {
namespace {

using EmbedderTuple = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

void save(
    const std::string& path,
    const ScriptNetwork& network,
    const EmbedderTuple& embedder,
    const Layout& prediction_layout,
    const Layout& features_layout,
    const std::string& distance,
    const py::dict& options) {
  const auto& [weight1, bias1, weight2, bias2] = embedder;
  save_engine(
      {network.module(),
       network.layer(),
       {weight1, bias1, weight2, bias2},
       prediction_layout,
       features_layout,
       distance,
       options_from(options)},
      path);
}

py::object to_python(const OptionValue& value) {
  return std::visit(
      [](const auto& v) -> py::object {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
          return py::none();
        } else {
          return py::cast(v);
        }
      },
      value);
}

/// What save() took, without the network, which Python loads itself.
py::dict load(const std::string& path) {
  const SavedEngine engine = load_engine(path, c10::kCPU);
  const py::dict options;
  for (const auto& [name, value] : engine.options.values()) options[py::str(name)] = to_python(value);
  const auto& [weight1, bias1, weight2, bias2] = engine.embedder;
  using py::literals::operator""_a;
  return py::dict(
      "layer"_a = engine.layer, "embedder"_a = EmbedderTuple{weight1, bias1, weight2, bias2},
      "prediction_layout"_a = engine.prediction_layout, "features_layout"_a = engine.features_layout,
      "distance"_a = engine.distance, "options"_a = options);
}

}  // namespace

void bind_saved_engine(py::module_& module) {
  using torch::wrap_pybind_function;
  module.def(
      "save_engine", wrap_pybind_function(save), py::arg("path"), py::arg("network"), py::arg("embedder"),
      py::arg("prediction_layout"), py::arg("features_layout"), py::arg("distance"), py::arg("options"),
      "Writes an engine to one TorchScript archive.");
  module.def(
      "load_engine", wrap_pybind_function(load), py::arg("path"),
      "Reads what save_engine() wrote, but for the network, which torch.jit.load reads.");
}

}  // namespace it3::python
