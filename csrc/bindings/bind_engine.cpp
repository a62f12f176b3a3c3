#include <ATen/ATen.h>
#include <torch/csrc/Exceptions.h>

#include <it3/adapt.h>
#include <it3/embedder.h>
#include <it3/losses.h>
#include <it3/method.h>
#include <it3/online.h>

#include "bindings.h"
#include "engine_parts.h"
#include "module_tree.h"
#include "options_from_python.h"
#include "python_call.h"
#include "python_network.h"
#include "script_from_python.h"

namespace it3::python {
namespace {

// In the functions below Python objects are made and destroyed with the GIL held, around a core that runs without it.

Adaptation adapt_parts(
    const EngineParts& parts, const py::object& inputs, const py::dict& options, Online* online, bool with_second) {
  const Options parsed = options_from(options);
  const UnbuiltOnError unbuilt(parts);
  const auto [network, network_inputs] = network_of(parts, without_inference_tensors(inputs));
  const Method method = method_of(parts);
  const py::gil_scoped_release no_gil;
  return adapt(*network, method, parsed, network_inputs, parsed.copy_model ? nullptr : online, with_second);
}

std::pair<at::Tensor, at::Tensor> losses_of_parts(
    const EngineParts& parts, const py::object& inputs, const std::optional<at::Tensor>& target) {
  const UnbuiltOnError unbuilt(parts);
  const auto [network, network_inputs] = network_of(parts, inputs);
  const Method method = method_of(parts);
  const py::gil_scoped_release no_gil;
  Losses losses = training_losses(*network, method, network_inputs, target, parts.prediction_layout);
  return {std::move(losses.prediction), std::move(losses.loss_ttt)};
}

at::Tensor uncertainty_of_parts(const EngineParts& parts, const py::object& inputs) {
  const UnbuiltOnError unbuilt(parts);
  const auto [network, network_inputs] = network_of(parts, inputs);
  const Method method = method_of(parts);
  const py::gil_scoped_release no_gil;
  return uncertainty(*network, method, network_inputs);
}

using MaybeTensors = std::vector<std::optional<at::Tensor>>;

MaybeTensors to_maybe(const std::vector<at::Tensor>& tensors) {
  MaybeTensors maybe;
  for (const auto& t : tensors) maybe.push_back(t.defined() ? std::optional(t) : std::nullopt);
  return maybe;
}

std::vector<at::Tensor> from_maybe(py::handle saved) {
  std::vector<at::Tensor> tensors;
  for (const auto& maybe : saved.cast<MaybeTensors>()) tensors.push_back(maybe.value_or(at::Tensor()));
  return tensors;
}

py::tuple state_of(const Online& online) {
  py::list start;
  for (const auto& s : online.start()) start.append(py::make_tuple(s.name, s.value));
  const OptimizerState& state = online.state();
  return py::make_tuple(
      start, to_maybe(state.momentum), to_maybe(state.squares), to_maybe(state.steps), to_maybe(state.masters),
      online.stepped(), static_cast<int>(online.optimizer()));
}

Online online_from(const py::tuple& saved) {
  std::vector<Online::Start> start;
  for (const py::handle s : saved[0]) {
    const auto pair = s.cast<std::pair<std::string, at::Tensor>>();
    start.push_back({pair.first, pair.second});
  }
  OptimizerState state{from_maybe(saved[1]), from_maybe(saved[2]), from_maybe(saved[3]), from_maybe(saved[4])};
  return Online::restore(
      std::move(start), std::move(state), saved[5].cast<std::vector<std::string>>(),
      static_cast<OptimizerName>(saved[6].cast<int>()));
}

}  // namespace

void bind_engine(py::module_& module) {
  using torch::wrap_pybind_function;

  py::class_<Adaptation>(module, "Adaptation", "What adaptation came to. Every tensor is detached.")
      .def_readonly("prediction", &Adaptation::prediction)
      .def_readonly("losses", &Adaptation::losses)
      .def_readonly("second", &Adaptation::second)
      .def_readonly("weights", &Adaptation::weights)
      .def("loss", &Adaptation::loss);

  py::class_<Online>(module, "Online", "What stays between calls that keep adapted weights.")
      .def(py::init<>())
      .def(
          "reset", wrap_pybind_function([](Online& online, const py::object& model) {
            online.reset(PythonNetwork(model, py::none(), "", py::none(), py::none()));
          }),
          py::arg("model"), "Writes the weights of the start back into the model, and forgets everything.")
      .def(py::pickle(&state_of, &online_from));

  py::class_<ScriptNetwork, std::shared_ptr<ScriptNetwork>>(
      module, "ScriptNetwork", "A TorchScript module, cut at one layer into a head and a tail.")
      .def(py::init(wrap_pybind_function(script_network_from)), py::arg("module"), py::arg("layer"));

  py::class_<EngineParts>(module, "EngineParts", "A model, the layer to inject at, and the functions between them.")
      .def(
          py::init(wrap_pybind_function([](py::object model, std::optional<std::shared_ptr<ScriptNetwork>> script,
                                           std::string layer_name, py::object embeder, bool embeds_to_features,
                                           py::object combine_fn, py::object distance_fn, Layout prediction_layout,
                                           Layout features_layout) {
            return EngineParts{std::move(model),       std::move(script),  std::move(layer_name),
                               std::move(embeder),     embeds_to_features, std::move(combine_fn),
                               std::move(distance_fn), prediction_layout,  features_layout};
          })),
          py::arg("model"), py::arg("script"), py::arg("layer_name"), py::arg("embeder"), py::arg("embeds_to_features"),
          py::arg("combine_fn"), py::arg("distance_fn"), py::arg("prediction_layout"), py::arg("features_layout"));

  module.def(
      "adapt", wrap_pybind_function(adapt_parts), py::arg("parts"), py::arg("inputs"), py::arg("options"),
      py::arg("online"), py::arg("with_second") = false,
      "The inner loop of IT3 on one batch; keeps what it adapted in `online` if copy_model is False.");
  module.def(
      "training_losses", wrap_pybind_function(losses_of_parts), py::arg("parts"), py::arg("inputs"),
      py::arg("target") = py::none(), "(y0, loss_ttt), the two terms of ZigZag's training loss.");
  module.def(
      "uncertainty", wrap_pybind_function(uncertainty_of_parts), py::arg("parts"), py::arg("inputs"),
      "The distance between the two predictions of each sample: (B,).");
  module.def(
      "submodule_of", wrap_pybind_function(submodule_of), py::arg("model"), py::arg("name"),
      "The submodule of a dotted name. Raises ValueError, with the nearest name, if there is none.");
  module.def(
      "arguments_of", wrap_pybind_function([](const py::object& inputs) {
        const Arguments arguments = arguments_of(inputs);
        return std::make_pair(arguments.args, arguments.kwargs);
      }),
      py::arg("inputs"), "The positional and keyword arguments that a model is called with for these inputs.");
  module.def(
      "sample_distances", wrap_pybind_function(sample_distances), py::arg("second"), py::arg("first"),
      "The Euclidean distance between two predictions of each sample: (B,).");
  module.def(
      "check_options", wrap_pybind_function([](const py::dict& options) { options_from(options); }), py::arg("options"),
      "Raises what the core would raise for these options.");
  module.def(
      "check_distance", wrap_pybind_function([](const std::string& name) { distance_by_name(name); }), py::arg("name"),
      "Raises ValueError for a name that is not a distance's.");
}

}  // namespace it3::python
