#include <ATen/ATen.h>
#include <torch/csrc/autograd/python_variable.h>

#include <it3/adapt.h>
#include <it3/backend/feedback.h>
#include <it3/backend/losses.h>
#include <it3/backend/neutral.h>
#include <it3/backend/normalization.h>
#include <it3/backend/online.h>
#include <it3/backend/settle_layouts.h>
#include <it3/backend/swapped_weights.h>
#include <it3/backend/uncertainty.h>
#include <it3/embedder.h>
#include <it3/injection.h>
#include <it3/method.h>

#include "bindings.h"
#include "engine_parts.h"
#include "in_dims_from_python.h"
#include "module_tree.h"
#include "options_from_python.h"
#include "python_network.h"
#include "python_values.h"
#include "script_from_python.h"
#include "shared_model_lock.h"
#include "swapped_state.h"
#include "translated.h"

namespace it3::python {
namespace {

// In the functions below Python objects are made and destroyed with the GIL held, around a core that runs without it.

/// Puts what the passes assign to objects in the inputs back.
class InputsAsGiven {
 public:
  explicit InputsAsGiven(const py::object& inputs) : objects_(inputs) {}
  ~InputsAsGiven() {
    const py::error_scope pending;
    objects_.restore();
    PyErr_Clear();
  }
  InputsAsGiven(const InputsAsGiven&) = delete;
  InputsAsGiven& operator=(const InputsAsGiven&) = delete;

 private:
  KeptState objects_;
};

/// A context manager: meanwhile, no thread has other weights in the model, nor writes adapted ones into it. Or, alone,
/// no other thread looks at an embedder before its first call, or gives it its shape.
class ModelHold {
 public:
  ModelHold(py::object model, bool is_alone)
      : model_(std::move(model)), use_(is_alone ? SharedModelLock::Use::alone : SharedModelLock::Use::reading) {}

  void enter() {
    hold_.emplace(SharedModelLock::of(model_), use_);
    // Who has an embedder alone leaves its weights to others: they may be the model's, whose calls come to their ends.
    if (use_ == SharedModelLock::Use::alone) return;
    try {
      std::vector<at::Tensor> parameters;
      for (const py::handle parameter : py::iter(model_.attr("parameters")())) {
        parameters.push_back(THPVariable_Unpack(parameter.ptr()));
      }
      const py::gil_scoped_release no_gil;  // other threads may need it to come to their ends
      turn_.emplace(ModelLock(parameters).wait(use_));
    } catch (...) {
      hold_.reset();
      throw;
    }
  }
  void exit() {
    turn_.reset();
    hold_.reset();
  }

 private:
  py::object model_;
  SharedModelLock::Use use_;
  std::optional<SharedModelLock::Hold> hold_;
  std::optional<ModelLock::Turn> turn_;
};

/// A model without inputs, for its parameters.
PythonNetwork parameters_only(const py::object& model) { return {model, py::none(), "", py::none()}; }

/// Whether the inputs could tell; the embedder has no more shape than before.
bool check_injection_of_parts(const EngineParts& parts, const py::object& inputs) {
  const bool has_shape = !parts.embeds_to_features || parts.embedder.attr("is_built").cast<bool>();
  bool has_told = false;
  const InputsAsGiven as_given(inputs);
  {
    const UnbuiltOnError unbuilt(parts);
    const EmbedderBuffers buffers(parts);
    const NetworkCall call = parts.runners->resolve_for_training(inputs, parts.in_dims);
    const Method method = method_of(parts, call);
    const py::gil_scoped_release no_gil;
    has_told = check_injection(*call.network, method, call.inputs);
  }
  if (!has_shape) parts.embedder.attr("clear")();
  return has_told;
}

Adaptation adapt_parts(
    const EngineParts& parts, const py::object& inputs, const py::dict& options, Online* online, bool with_details) {
  const Options parsed = options_from(options);
  if (!parsed.copy_model) Online::check_outside_of_calls(parameters_only(parts.runners->model()));
  const UnbuiltOnError unbuilt(parts);
  const EmbedderBuffers buffers(parts);
  const NetworkCall call = parts.runners->resolve(inputs, parts.in_dims);
  const Method method = method_of(parts, call);
  const py::gil_scoped_release no_gil;
  return adapt(
      {.network = *call.network,
       .method = method,
       .options = parsed,
       .inputs = call.inputs,
       .online = parsed.copy_model ? nullptr : online,
       .with_details = with_details,
       .graphs = parts.graphs.get()});
}

/// With whether the engine learns by these targets to be fed class probabilities.
std::tuple<at::Tensor, at::Tensor, bool> losses_of_parts(
    const EngineParts& parts,
    const py::object& inputs,
    const std::optional<at::Tensor>& target,
    std::optional<double> target_probability) {
  const UnbuiltOnError unbuilt(parts);
  const NetworkCall call = parts.runners->resolve_for_training(inputs, parts.in_dims);
  const Method method = method_of(parts, call);
  const py::gil_scoped_release no_gil;
  Losses losses = training_losses(*call.network, method, call.inputs, target, target_probability);
  const bool learns = losses.has_class_targets && !method.feeds_probabilities &&
                      !are_probabilities(losses.prediction, method.prediction_layout);
  return {std::move(losses.prediction), std::move(losses.loss_ttt), learns};
}

at::Tensor uncertainty_of_parts(const EngineParts& parts, const py::object& inputs, const py::dict& options) {
  const Options parsed = options_from(options);
  const UnbuiltOnError unbuilt(parts);
  const EmbedderBuffers buffers(parts);
  const NetworkCall call = parts.runners->resolve(inputs, parts.in_dims);
  const Method method = method_of(parts, call);
  const py::gil_scoped_release no_gil;
  return uncertainty(*call.network, method, call.inputs, parsed);
}

/// Why a call would not be recorded as a CUDA graph; empty if it would.
std::string why_not_recorded(const EngineParts& parts, const py::object& inputs, const py::dict& options) {
  const NetworkCall call = parts.runners->resolve(inputs, parts.in_dims);
  return Graphs::why_not(*call.network, method_of(parts, call), options_from(options), call.inputs);
}

/// The layouts of (prediction, features); those of the parts are taken as they are where they are given.
std::pair<Layout, Layout> settle_layouts_of_parts(
    const EngineParts& parts,
    const py::object& inputs,
    const std::optional<Origin>& of_prediction,
    const std::optional<Origin>& of_features,
    std::pair<bool, bool> needed) {
  const InputsAsGiven as_given(inputs);
  const NetworkCall call = parts.runners->resolve_for_training(inputs, parts.in_dims);
  const py::gil_scoped_release no_gil;
  const Layouts settled = settle_layouts(
      *call.network, call.inputs, {parts.prediction_layout, parts.features_layout},
      of_prediction ? *of_prediction : call.network->origin_of_prediction(),
      of_features ? *of_features : call.network->origin_of_features(), call.network->layer_name(),
      {needed.first, needed.second});
  return {settled.prediction, settled.features};
}

std::string describe_layouts_of_parts(const EngineParts& parts, const py::object& inputs) {
  const InputsAsGiven as_given(inputs);
  const NetworkCall call = parts.runners->resolve_for_training(inputs, parts.in_dims);
  const py::gil_scoped_release no_gil;
  return describe_layouts(*call.network, call.inputs, {parts.prediction_layout, parts.features_layout});
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
  const Online::State state = online.state();
  py::list start;
  for (const auto& s : state.start) start.append(py::make_tuple(s.name, s.value));
  const OptimizerState& optimizer = state.optimizer;
  std::optional<std::pair<double, double>> loss_average;
  if (state.loss_average) loss_average = {state.loss_average->average, state.loss_average->least};
  return py::make_tuple(
      start, to_maybe(optimizer.momentum), to_maybe(optimizer.squares), to_maybe(optimizer.steps),
      to_maybe(optimizer.masters), state.stepped, static_cast<int>(state.optimizer_name), state.average, loss_average);
}

Online online_from(const py::tuple& saved) {
  Online::State state;
  for (const py::handle s : saved[0]) {
    const auto pair = s.cast<std::pair<std::string, at::Tensor>>();
    state.start.push_back({pair.first, pair.second});
  }
  state.optimizer = {from_maybe(saved[1]), from_maybe(saved[2]), from_maybe(saved[3]), from_maybe(saved[4])};
  state.stepped = saved[5].cast<std::vector<std::string>>();
  state.optimizer_name = static_cast<OptimizerKind>(saved[6].cast<int>());
  state.average = saved[7].cast<std::vector<at::Tensor>>();
  if (const auto loss_average = saved[8].cast<std::optional<std::pair<double, double>>>()) {
    state.loss_average = {loss_average->first, loss_average->second};
  }
  return Online(std::move(state));
}

}  // namespace

void bind_engine(py::module_& module) {
  bind_reads(module);

  py::class_<Adaptation>(module, "Adaptation", "What adaptation came to. Every tensor is detached.")
      .def_readonly("prediction", &Adaptation::prediction)
      .def_readonly("first", &Adaptation::first)
      .def_readonly("losses", &Adaptation::losses)
      .def_readonly("second", &Adaptation::second)
      .def_readonly("weights", &Adaptation::weights)
      .def_property_readonly(
          "adapted_samples",
          [](const Adaptation& a) {
            return a.adapted_samples.defined() ? std::optional(a.adapted_samples) : std::nullopt;
          })
      .def_readonly("recovered", &Adaptation::recovered)
      .def("loss", &Adaptation::loss);

  py::class_<Drift>(module, "Drift", "How far weights have moved from their start: Euclidean norms.")
      .def_readonly("distance", &Drift::distance, "Of the change of all weights together.")
      .def_readonly("relative", &Drift::relative, "The distance over the norm of the start.")
      .def_readonly("by_parameter", &Drift::by_parameter, "Of each parameter's change, by name.")
      .def("__repr__", [](const Drift& drift) {
        return c10::str("Drift(distance=", drift.distance, ", relative=", drift.relative, ")");
      });

  py::class_<Online>(module, "Online", "What stays between calls that keep adapted weights.")
      .def(py::init<>())
      .def(
          "reset", translated([](Online& online, const py::object& model) {
            const PythonNetwork network = parameters_only(model);
            Online::check_outside_of_calls(network);
            const SharedModelLock::Hold hold(SharedModelLock::of(model), SharedModelLock::Use::alone);
            const py::gil_scoped_release no_gil;  // other threads may need it to come to their ends
            online.reset(network);
          }),
          py::arg("model"), "Writes the weights of the start back into the model, and forgets everything.")
      .def(
          "drift", translated([](const Online& online, const py::object& model) {
            const SharedModelLock::Hold hold(SharedModelLock::of(model), SharedModelLock::Use::reading);
            const PythonNetwork network = parameters_only(model);
            const py::gil_scoped_release no_gil;
            return online.drift(network);
          }),
          py::arg("model"), "How far the model's weights are from those of the start.")
      .def(py::pickle(&state_of, &online_from));

  py::class_<ModelHold>(
      module, "ModelHold", "Waits until no thread has other weights in a model or writes any into it, and keeps it so.")
      .def(py::init<py::object, bool>(), py::arg("model"), py::arg("is_alone") = false)
      .def("__enter__", translated([](ModelHold& hold) { hold.enter(); }))
      .def(
          "__exit__", [](ModelHold& hold, const py::object&, const py::object&, const py::object&) { hold.exit(); },
          py::arg("type"), py::arg("value"), py::arg("traceback"));

  py::class_<Runners, std::shared_ptr<Runners>>(module, "Runners", "The ways of running a model.")
      .def(
          py::init(translated([](const py::object& model, const std::string& layer_name, const py::object& output,
                                 const py::object& layer_output) {
            return std::make_shared<Runners>(model, layer_name, output, layer_output);
          })),
          py::arg("model"), py::arg("layer_name"), py::arg("output") = py::none(), py::arg("layer_output") = py::none())
      .def(
          "explain",
          translated([](const Runners& runners, const py::object& inputs) { return runners.explain(inputs); }),
          py::arg("inputs"), "How a call with these inputs would run, and why.")
      .def(
          "why_not",
          translated([](const Runners& runners, const py::object& inputs) { return runners.why_not(inputs); }),
          py::arg("inputs"), "Why a call is not cut at the layer, but runs the model itself; empty if it is cut.");

  py::class_<EngineParts>(module, "EngineParts", "A model, the layer to inject at, and the functions between them.")
      .def(
          py::init(translated([](std::shared_ptr<Runners> runners, py::object embedder, bool embeds_to_features,
                                 py::object combine_fn, py::object distance_fn, Layout prediction_layout,
                                 Layout features_layout, std::optional<at::Tensor> neutral, py::object in_dims,
                                 bool feeds_probabilities) {
            if (neutral) check_neutral(*neutral);
            return EngineParts{std::move(runners),     std::move(embedder), embeds_to_features, std::move(combine_fn),
                               std::move(distance_fn), prediction_layout,   features_layout,    std::move(neutral),
                               std::move(in_dims),     feeds_probabilities};
          })),
          py::arg("runners"), py::arg("embedder"), py::arg("embeds_to_features"), py::arg("combine_fn"),
          py::arg("distance_fn"), py::arg("prediction_layout"), py::arg("features_layout"), py::arg("neutral"),
          py::arg("in_dims"), py::arg("feeds_probabilities"));

  module.def(
      "adapt", translated(adapt_parts), py::arg("parts"), py::arg("inputs"), py::arg("options"), py::arg("online"),
      py::arg("with_details") = false,
      "The inner loop of IT3 on one batch; keeps what it adapted in `online` if copy_model is False.");
  module.def(
      "training_losses", translated(losses_of_parts), py::arg("parts"), py::arg("inputs"),
      py::arg("target") = py::none(), py::arg("target_probability") = py::none(),
      "(y0, loss_ttt), the two terms of ZigZag's training loss; and whether it is class probabilities that such "
      "targets "
      "teach to feed back.");
  module.def(
      "uncertainty", translated(uncertainty_of_parts), py::arg("parts"), py::arg("inputs"), py::arg("options"),
      "The distance between the two predictions of each sample: (B,).");
  module.def(
      "settle_layouts", translated(settle_layouts_of_parts), py::arg("parts"), py::arg("inputs"),
      py::arg("of_prediction"), py::arg("of_features"), py::arg("needed"),
      "The layouts of (prediction, features), by plain passes. Raises ValueError where one that is needed stays open.");
  module.def(
      "describe_layouts", translated(describe_layouts_of_parts), py::arg("parts"), py::arg("inputs"),
      "Where features and prediction have their channels and samples, in words.");
  module.def(
      "why_not_recorded", translated(why_not_recorded), py::arg("parts"), py::arg("inputs"), py::arg("options"),
      "Why a call is not recorded and replayed as a CUDA graph; empty if it is.");
  module.def(
      "submodule_of", translated(submodule_of), py::arg("model"), py::arg("name"),
      "The submodule of a dotted name. Raises ValueError, with the nearest name, if there is none.");
  module.def(
      "arguments_of", translated([](const py::object& inputs) {
        const Arguments arguments = arguments_of(inputs);
        return std::make_pair(arguments.args, arguments.kwargs);
      }),
      py::arg("inputs"), "The positional and keyword arguments that a model is called with for these inputs.");
  module.def(
      "sample_distances", translated(sample_distances), py::arg("second"), py::arg("first"), py::arg("batch_dim") = 0,
      "The Euclidean distance between two predictions of each sample: (B,).");
  module.def(
      "copies_with_shared_memory", translated(copies_with_shared_memory), py::arg("tensors"),
      "Copies of tensors; those that lie over the same memory do so in their copies too.");
  module.def(
      "quantile_of", translated(quantile_of), py::arg("values"), py::arg("quantile"),
      "A quantile of the values of some tensors together.");
  module.def(
      "batch_norm",
      translated([](const at::Tensor& x, const at::Tensor& running_mean, const at::Tensor& running_var,
                    const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias, double eps,
                    int statistics, std::optional<double> prior) {
        return batch_norm(
            x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), running_mean, running_var, eps,
            {static_cast<NormStatistics>(statistics), prior});
      }),
      py::arg("x"), py::arg("running_mean"), py::arg("running_var"), py::arg("weight"), py::arg("bias"), py::arg("eps"),
      py::arg("statistics"), py::arg("prior"), "Batch normalization in eval mode by the statistics asked for.");
  module.def(
      "check_injection", translated(check_injection_of_parts), py::arg("parts"), py::arg("inputs"),
      "Raises ValueError if what is injected does not reach the prediction; whether the inputs could tell.");
  module.def(
      "check_feedback", translated([](const std::string& name) { feedback_by_name(name); }), py::arg("name"),
      "Raises ValueError for a name that is no kind of feedback.");
  module.def(
      "is_between_distributions", &is_between_distributions, py::arg("name"),
      "Whether the distance of this name is one between class distributions.");
  module.def(
      "check_in_dims", translated([](const py::object& in_dims) { in_dims_from(in_dims); }), py::arg("in_dims"),
      "Raises TypeError for what in_dims cannot be.");
  module.attr("untrained_warning") = untrained_warning;
  module.def(
      "check_distance", translated([](const std::string& name) { distance_by_name(name); }), py::arg("name"),
      "Raises ValueError for a name that is not a distance's.");
}

}  // namespace it3::python
