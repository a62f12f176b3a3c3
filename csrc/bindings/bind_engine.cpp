#include <ATen/ATen.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <it3/adapt.h>
#include <it3/backend/feedback.h>
#include <it3/backend/online.h>
#include <it3/backend/sample_distances.h>
#include <it3/backend/swapped_weights.h>
#include <it3/explanation.h>
#include <it3/injection.h>
#include <it3/method.h>
#include <it3/script_input_layer.h>

#include "bind_hold.h"
#include "bindings.h"
#include "files/new_file.h"
#include "in_dims_from_python.h"
#include "module_tree.h"
#include "options_from_python.h"
#include "python_engine.h"
#include "python_parts.h"
#include "python_values.h"
#include "script_from_python.h"
#include "shared_model_lock.h"
#include "translated.h"

namespace it3::python {
namespace {

/// A context manager: meanwhile, no thread has other weights in the model, nor writes adapted ones into it.
class ModelHold {
 public:
  explicit ModelHold(py::object model) : model_(std::move(model)) {}

  void enter() {
    hold_.emplace(SharedModelLock::of(model_), SharedModelLock::Use::reading);
    try {
      std::vector<at::Tensor> parameters;
      for (const py::handle parameter : py::iter(model_.attr("parameters")())) {
        parameters.push_back(THPVariable_Unpack(parameter.ptr()));
      }
      const py::gil_scoped_release no_gil;  // other threads may need it to come to their ends
      turn_.emplace(ModelLock(parameters).wait(UpgradeMutex::Use::reading));
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
  std::optional<SharedModelLock::Hold> hold_;
  std::optional<ModelLock::Turn> turn_;
};

/// A context manager: meanwhile, no other thread gives an embedder its shape, or looks before a first call by it. It
/// leaves the embedder's weights to others: they may be the model's, whose calls come to their ends.
class EmbedderHold {
 public:
  explicit EmbedderHold(const PythonEngine::Setup& setup) : embedder_(setup->attributes.embedder) {}

  void enter() { hold_.emplace(SharedModelLock::of(embedder_), SharedModelLock::Use::alone); }
  void exit() { hold_.reset(); }

 private:
  py::object embedder_;
  std::optional<SharedModelLock::Hold> hold_;
};

/// Null where Python has made the object, but __init__() has not run.
PythonEngine* engine_in(PyObject* self) {
  auto* const instance = reinterpret_cast<py::detail::instance*>(self);
  return instance->get_value_and_holder().holder_constructed() ? &py::cast<PythonEngine&>(py::handle(self)) : nullptr;
}

/// Lets Python's garbage collector see what engines own: a function of theirs may close over the engine.
void collect_engines(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const PythonEngine* const engine = engine_in(self);
    return engine != nullptr ? engine->traverse(visit, arg) : 0;
  };
  type.tp_clear = [](PyObject* self) {
    if (PythonEngine* const engine = engine_in(self)) engine->clear();
    return 0;
  };
}

void bind_explanation(const py::module_& module) {
  py::class_<ShapeAndLayout>(module, "ShapeAndLayout", "The shape of a tensor, and where its channels and samples are.")
      .def_property_readonly("shape", [](const ShapeAndLayout& of) { return py::tuple(py::cast(of.shape)); })
      .def_readonly("layout", &ShapeAndLayout::layout, "Its dimensions count from 0; no channels in one dimension.")
      .def("__repr__", &ShapeAndLayout::str);

  py::class_<Explanation>(
      module, "Explanation",
      "How calls of an engine with some inputs run, and why. Its text has a line for each of these.")
      .def_readonly("runs", &Explanation::runs, "How the model runs, such as 'cut at the layer, a TorchScript module'.")
      .def_readonly("is_cut", &Explanation::is_cut, "Whether what comes before the layer runs once for both passes.")
      .def_readonly("why_whole", &Explanation::why_whole, "Why the model is not cut; '' if it is.")
      .def_readonly("compiled", &Explanation::compiled, "What becomes of compiled programs; '' where there are none.")
      .def_readonly("is_compiled", &Explanation::is_compiled, "Whether compiled programs are called.")
      .def_readonly(
          "why_no_cuda_graph", &Explanation::why_no_cuda_graph,
          "Why no CUDA graph is replayed; '' if one is, from the second like call on.")
      .def_readonly("fed_back", &Explanation::fed_back, "What is fed back of y0: 'softmax(y0)' or 'y0'.")
      .def_property_readonly(
          "features", [](const Explanation& of) { return of.shapes.features; }, "The layer's output.")
      .def_property_readonly("prediction", [](const Explanation& of) { return of.shapes.prediction; })
      .def_readonly(
          "why_not_shared", &Explanation::why_not_shared,
          "Why a training step computes what comes before the layer in both passes; '' where it does not, or where no "
          "step has found out.")
      .def("__repr__", &Explanation::str);
}

}  // namespace

void bind_engine(py::module_& module) {
  bind_reads(module);
  bind_explanation(module);

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
      .def_readonly("prediction_layout", &Adaptation::prediction_layout)
      .def_readonly("feeds_probabilities", &Adaptation::feeds_probabilities)
      .def("loss", &Adaptation::loss);

  py::class_<Drift>(
      module, "Drift",
      "How far weights have moved from their start: Euclidean norms.\n\n"
      "Examples\n--------\n"
      ">>> adaptation = engine.adapt(x, online=True, threshold=None)\n"
      ">>> drift = engine.drift()\n"
      ">>> drift.distance > 0, [name for name, _ in drift.by_parameter]\n"
      "(True, ['0.weight', '0.bias', '2.weight', '2.bias'])\n"
      ">>> engine.reset()\n")
      .def_readonly("distance", &Drift::distance, "Of the change of all weights together.")
      .def_readonly("relative", &Drift::relative, "The distance over the norm of the start.")
      .def_readonly("by_parameter", &Drift::by_parameter, "Of each parameter's change, by name.")
      .def("__repr__", [](const Drift& drift) {
        return c10::str("Drift(distance=", drift.distance, ", relative=", drift.relative, ")");
      });

  bind_hold<ModelHold>(
      module, "ModelHold", "Waits until no thread has other weights in a model or writes any into it, and keeps it so.")
      .def(py::init<py::object>(), py::arg("model"));
  py::class_<PythonSetup, PythonEngine::Setup>(
      module, "EngineSetup", "What an engine's attributes were at one moment, for the calls that begin then.")
      .def_property_readonly("is_looked_at", [](const PythonSetup& setup) { return setup.core.is_looked_at; })
      .def_property_readonly("model", [](const PythonSetup& setup) { return setup.runners->model(); })
      .def_property_readonly("has_neutral", [](const PythonSetup& setup) { return is_given(setup.core.neutral); })
      .def_property_readonly("layer_name", [](const PythonSetup& setup) { return setup.layer_name; })
      .def_property_readonly("prediction_layout", [](const PythonSetup& s) { return s.core.layouts.prediction; })
      .def_property_readonly("features_layout", [](const PythonSetup& s) { return s.core.layouts.features; })
      .def(
          "uncertainty",
          translated([](const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options) {
            return uncertainty_of(setup, inputs, options);
          }),
          py::arg("inputs"), py::arg("options"), "The distance between the two predictions of each sample: (B,).")
      .def(
          "explain",
          translated([](const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options) {
            return explain(setup, inputs, options);
          }),
          py::arg("inputs"), py::arg("options"), "How a call would run, and why.");

  bind_hold<EmbedderHold>(
      module, "EmbedderHold",
      "Waits until no thread gives a setup's embedder its shape or looks at it, and keeps it so.")
      .def(py::init<const PythonEngine::Setup&>(), py::arg("setup"));

  py::class_<Calibration>(module, "Calibration", "What batches that need no adaptation tell.")
      .def(py::init<>())
      .def(
          "add",
          translated([](Calibration& calibration, const PythonEngine::Setup& setup, const py::object& inputs,
                        const py::dict& options) { add_to(calibration, setup, inputs, options); }),
          py::arg("setup"), py::arg("inputs"), py::arg("options"), "Takes one more batch in.");

  py::class_<PythonEngine, std::shared_ptr<PythonEngine>>(
      module, "Engine", "The engine behind an it3.IT3Engine, its face.", py::custom_type_setup(collect_engines))
      .def(py::init<bool>(), py::arg("is_trained"))
      .def(
          "setup_of", translated([](PythonEngine& engine, const py::object& face) { return engine.setup_of(face); }),
          py::arg("face"), "What the face's attributes are now; what is made of them is kept while they are the same.")
      .def(
          "look_at_first",
          translated([](PythonEngine& engine, const PythonEngine::Setup& setup, const py::object& inputs,
                        const std::optional<Origin>& of_prediction, const std::optional<Origin>& of_features) {
            return engine.look_at_first(setup, inputs, of_prediction, of_features);
          }),
          py::arg("setup"), py::arg("inputs"), py::arg("of_prediction"), py::arg("of_features"),
          "Settles where channels and samples are, and checks that what is injected reaches the prediction.")
      .def(
          "adapt",
          translated([](PythonEngine& engine, const PythonEngine::Setup& setup, const py::object& inputs,
                        const py::dict& options,
                        bool with_details) { return engine.adapt(setup, inputs, options, with_details); }),
          py::arg("setup"), py::arg("inputs"), py::arg("options"), py::arg("with_details") = false,
          "The inner loop of IT3 on one batch; keeps what it adapted if copy_model is False.")
      .def(
          "losses",
          translated([](PythonEngine& engine, const PythonEngine::Setup& setup, const py::object& inputs,
                        const std::optional<at::Tensor>& target,
                        const TrainingRecipe& recipe) { return engine.losses(setup, inputs, target, recipe); }),
          py::arg("setup"), py::arg("inputs"), py::arg("target"), py::arg("recipe"),
          "(y0, loss_ttt), the two terms of ZigZag's training loss.")
      .def(
          "save",
          translated([](const PythonEngine& engine, const PythonEngine::Setup& setup, it3::detail::NewFile& file,
                        const py::object& inputs,
                        const py::dict& options) { engine.save(setup, file, inputs, options); }),
          py::arg("setup"), py::arg("file"), py::arg("inputs"), py::arg("options"),
          "Writes an engine of TorchScript parts, and reads it back.")
      .def(
          "description",
          translated([](const PythonEngine& engine, const PythonEngine::Setup& setup, const py::object& inputs,
                        const py::dict& options, const SavedPrograms& programs) {
            return engine.description(setup, inputs, options, programs);
          }),
          py::arg("setup"), py::arg("inputs"), py::arg("options"), py::arg("programs"),
          "What a file holds of an engine around a program of torch.export, beside programs.")
      .def(
          "reset", translated([](PythonEngine& engine, const py::object& model) { engine.reset(model); }),
          py::arg("model"),
          "Writes the weights of the start back into the model, and forgets everything that was kept.")
      .def(
          "drift", translated([](PythonEngine& engine, const py::object& model) { return engine.drift(model); }),
          py::arg("model"), "How far the model's weights are from those of the start.")
      .def(
          "keep_up", translated([](PythonEngine& engine, const py::object& face) { engine.keep_up(face); }),
          py::arg("face"),
          "Forgets what belongs to attributes that the face has no more; for before an engine is pickled, and after it "
          "is "
          "unpickled.")
      .def(
          "sibling", &PythonEngine::sibling,
          "An engine that knows what this one does, but has no adapted weights to keep or to go back to.")
      .def(
          "takes_warning", translated([](PythonEngine& engine, const py::dict& options) {
            const EngineCore& core = engine.core;  // options need their time
            return !core.is_trained && !core.has_warned && engine.core.takes_warning(options_from(options));
          }),
          py::arg("options"), "True once, where these options adapt an engine that was never trained.")
      .def_property(
          "is_trained", [](const PythonEngine& engine) { return engine.core.is_trained.load(); },
          [](PythonEngine& engine, bool is_trained) { engine.core.is_trained = is_trained; })
      .def_property(
          "learned_probabilities", [](const PythonEngine& engine) { return engine.core.learned_probabilities.load(); },
          [](PythonEngine& engine, bool learned) { engine.core.learned_probabilities = learned; })
      .def(
          "calibrate", translated([](PythonEngine& engine, const Calibration& calibration, double quantile) {
            return engine.core.calibrate(calibration, quantile);
          }),
          py::arg("calibration"), py::arg("quantile"), "The threshold; from then on the engine knows the range.")
      .def_property(
          "calibrated_range",
          [](const PythonEngine& engine) { return range_to_python(engine.core.calibrated_range()); },
          translated([](PythonEngine& engine, const py::object& range) {
            engine.core.set_calibrated_range(range_from_python(range));
          }))
      .def(
          py::pickle(
              [](const PythonEngine& engine) { return engine.state(); },
              [](const py::tuple& state) { return PythonEngine::from_state(state); }));

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
      "sample_distances", translated(sample_distances), py::arg("second"), py::arg("first"), py::arg("layout"),
      py::arg("of_probabilities"), "The Euclidean distance between two predictions of each sample: (B,).");
  module.def(
      "copies_with_shared_memory", translated(copies_with_shared_memory), py::arg("tensors"),
      "Copies of tensors; those that lie over the same memory do so in their copies too.");
  module.def(
      "use_python_parts",
      [](py::object embedder_class, py::object tracing_plan, py::object other_statistics, py::object shared_head,
         py::object exported_model_class) {
        use_python_parts(
            {std::move(embedder_class), std::move(tracing_plan), std::move(other_statistics), std::move(shared_head),
             std::move(exported_model_class)});
      },
      py::arg("embedder_class"), py::arg("tracing_plan"), py::arg("other_statistics"), py::arg("shared_head"),
      py::arg("exported_model_class"), "Takes what of it3 is written in Python, and called by the core's bindings.");
  module.def(
      "with_input_layer",
      translated(
          [](const py::object& model, std::int64_t extra_channels, std::int64_t channel_dim, std::int64_t argument) {
            return torch::jit::toPyObject(
                with_input_layer(script_module_from(model), extra_channels, channel_dim, argument)._ivalue());
          }),
      py::arg("model"), py::arg("extra_channels"), py::arg("channel_dim"), py::arg("argument"),
      "A torch._C.ScriptModule around a TorchScript module, with a layer \"input\" before it.");
  module.def(
      "check_feedback", translated([](const std::string& name) { feedback_by_name(name); }), py::arg("name"),
      "Raises ValueError for a name that is no kind of feedback.");
  module.def(
      "check_in_dims", translated([](const py::object& in_dims) { in_dims_from(in_dims); }), py::arg("in_dims"),
      "Raises TypeError for what in_dims cannot be.");
  module.attr("untrained_warning") = untrained_warning;
  module.def(
      "check_distance", translated([](const std::string& name) { distance_by_name(name); }), py::arg("name"),
      "Raises ValueError for a name that is not a distance's.");
}

}  // namespace it3::python
