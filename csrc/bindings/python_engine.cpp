#include "python_engine.h"

#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/backend/compiled.h>
#include <it3/backend/first_call.h>
#include <it3/backend/graphs.h>
#include <it3/backend/script_function.h>
#include <it3/backend/uncertainty.h>

#include "in_dims_from_python.h"
#include "module_tree.h"
#include "network/held_locks.h"
#include "online_state.h"
#include "options_from_python.h"
#include "python_network.h"
#include "python_values.h"
#include "script_from_python.h"
#include "shared_model_lock.h"
#include "swapped_state.h"

namespace it3::python {
namespace {

using Setup = PythonEngine::Setup;

void look_at_functions(const PythonSetup& setup) {
  for (const auto& compiled : setup.core.compiled) compiled->look_at_functions();
}

/// Swaps in copies of the buffers of an embedder of the user's own, if it is an eager module. Meanwhile, other threads
/// wait to use it.
class EmbedderBuffers {
 public:
  explicit EmbedderBuffers(const PythonSetup& setup) {
    const EngineFunctions& functions = setup.core.functions;
    const py::object& embedder = setup.attributes.embedder;
    const bool is_eager = functions.embedder != nullptr ? !functions.embedder->is_plain()
                                                        : functions.embed.target<ScriptFunction>() == nullptr;
    if (!is_eager || !py::hasattr(embedder, "_buffers") || buffers_of(embedder).empty()) return;
    hold_.emplace(SharedModelLock::of(embedder), SharedModelLock::Use::alone);  // it may be another engine's model
    buffers_.emplace(std::vector<py::object>{embedder});
  }

 private:
  std::optional<SharedModelLock::Hold> hold_;  // ends last
  std::optional<SwappedBuffers> buffers_;
};

/// Puts the objects in the inputs back as they were, as a model may write to them.
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

/// `looking`: once, by the model as it is.
enum class For { adapting, adapting_each, training, looking };

For for_adapting(const Options& options) { return options.per_sample ? For::adapting_each : For::adapting; }

std::optional<InDims> given_in_dims(const PythonSetup& setup) {
  const py::object& given = setup.attributes.in_dims;
  return given.is_none() ? std::nullopt : std::optional(in_dims_from(given));
}

/// Gives `work` what a call of these inputs is made with, without the GIL.
template <typename Work>
auto call(const Setup& setup, const py::object& inputs, For what, const Work& work) {
  std::optional<FirstUse> first_use;
  if (const auto& embedder = setup->core.functions.embedder; !FirstUse::is_over(embedder)) {
    const py::gil_scoped_release no_gil;
    first_use.emplace(embedder);
  }
  const py::object& in_dims = setup->attributes.in_dims;
  const Layout* const each_by = what == For::adapting_each ? &setup->core.layouts.prediction : nullptr;
  const NetworkCall network_call = what == For::training  ? setup->runners->resolve_for_training(inputs, in_dims)
                                   : what == For::looking ? setup->runners->resolve_whole(inputs, in_dims)
                                                          : setup->runners->resolve(inputs, in_dims, each_by);
  const EngineCall call{
      *network_call.network, network_call.inputs, setup->core, setup->core.method(network_call.in_dims)};
  const py::gil_scoped_release no_gil;
  return work(call);
}

int visit_each(const Attributes& all, visitproc visit, void* arg) {
  for (const py::object* attribute :
       {&all.model, &all.layer, &all.output, &all.layer_output, &all.embedder, &all.combine_fn, &all.distance_fn,
        &all.neutral, &all.feedback, &all.in_dims, &all.given_layouts}) {
    Py_VISIT(attribute->ptr());
  }
  return 0;
}

/// A model without inputs, for its parameters.
PythonNetwork parameters_only(const py::object& model) { return {model, py::none(), "", py::none()}; }

}  // namespace

Setup PythonEngine::setup_of(const py::object& face) {
  Attributes now = Attributes::of(face);
  Setup known = setup_;
  const bool learned = core.learned_probabilities;
  if (known != nullptr && known->attributes.are(now) && known->core.learned_probabilities == learned) return known;
  auto made = known != nullptr ? std::make_shared<PythonSetup>(now, learned, *known)
                               : std::make_shared<PythonSetup>(std::move(now), learned, known_);
  set_model(made->runners->model());
  made->core.online = online_;
  const Setup last = std::exchange(setup_, made);  // ends when there is a new one, as that may run Python's code
  known_.reset();
  return made;
}

void PythonEngine::set_model(const py::object& model) {
  if (model_ && !model_.is(model)) online_ = std::make_shared<Online>();
  model_ = model;
}

void PythonEngine::keep_up(const py::object& face) {
  Attributes now = Attributes::of(face);
  set_model(without_compile(now.model));
  if (setup_ != nullptr && !setup_->attributes.have_layouts_of(now)) setup_.reset();
  if (known_ && !known_->attributes.have_layouts_of(now)) known_.reset();
  if (const auto restored = std::exchange(restored_, std::nullopt)) known_ = {std::move(now), *restored};
}

Setup PythonEngine::look_at_first(
    const Setup& setup,
    const py::object& inputs,
    const std::optional<Origin>& of_prediction,
    const std::optional<Origin>& of_features) {
  const InputsAsGiven as_given(inputs);
  const EmbedderBuffers buffers(*setup);
  EngineSetup looked = call(setup, inputs, For::looking, [&](const EngineCall& call) {
    return it3::look_at_first(
        call, of_prediction ? *of_prediction : call.network.origin_of_prediction(),
        of_features ? *of_features : call.network.origin_of_features());
  });
  auto settled = std::make_shared<PythonSetup>(*setup, std::move(looked));
  if (setup_ == setup) setup_ = settled;  // else attributes have changed meanwhile
  return settled;
}

Adaptation PythonEngine::adapt(
    const Setup& setup, const py::object& inputs, const py::dict& options, bool with_details) {
  const Options parsed = recent_options_.of(options);
  if (!parsed.copy_model && it3::detail::holds_any_lock()) {
    Online::check_outside_of_calls(parameters_only(setup->runners->model()));
  }
  look_at_functions(*setup);
  const EmbedderBuffers buffers(*setup);
  return call(setup, inputs, for_adapting(parsed), [&](const EngineCall& call) {
    return core.adapt(call, parsed, with_details);
  });
}

std::pair<at::Tensor, at::Tensor> PythonEngine::losses(
    const Setup& setup,
    const py::object& inputs,
    const std::optional<at::Tensor>& target,
    const TrainingRecipe& recipe) {
  const bool has_two_passes = recipe.second_pass != SecondPass::none;
  return call(setup, inputs, has_two_passes ? For::training : For::looking, [&](const EngineCall& call) {
    Losses losses = core.losses(call, target, recipe);
    return std::pair(std::move(losses.prediction), std::move(losses.loss_ttt));
  });
}

void PythonEngine::use(const Setup& setup, std::shared_ptr<const Compiled> compiled) {
  EngineSetup changed = setup->core;
  changed.compiled.insert(changed.compiled.begin(), std::move(compiled));
  constexpr std::size_t most = 16;
  if (changed.compiled.size() > most) changed.compiled.pop_back();
  changed.graphs = std::make_shared<Graphs>();  // those of the passes
  const auto made = std::make_shared<PythonSetup>(*setup, std::move(changed));
  TORCH_CHECK(setup_ == setup, "the engine's attributes changed while it was compiled; compile it again");
  setup_ = made;
}

void PythonEngine::use(
    const Setup& setup,
    const py::object& inputs,
    const SavedPrograms& programs,
    const std::map<std::string, at::Tensor>& of_functions,
    std::function<bool()> have_functions_changed) {
  std::shared_ptr<const Compiled> compiled;
  call(setup, inputs, programs.options.per_sample ? For::adapting_each : For::adapting, [&](const EngineCall& call) {
    compiled = programs.bind(call.network, call.method, of_functions, std::move(have_functions_changed));
  });
  use(setup, std::move(compiled));
}

void PythonEngine::save(
    const Setup& setup, it3::detail::NewFile& file, const py::object& inputs, const py::dict& options) const {
  const Options parsed = options_from(options);
  const auto network = setup->runners->script_network();
  TORCH_CHECK(network != nullptr, "the model must have been exported to TorchScript");
  const auto in_dims = given_in_dims(*setup);
  call(setup, inputs, For::adapting, [&](const EngineCall& call) { core.save(*network, call, parsed, in_dims, file); });
}

py::bytes PythonEngine::description(
    const Setup& setup, const py::object& inputs, const py::dict& options, const SavedPrograms& programs) const {
  const Options parsed = options_from(options);
  const auto in_dims = given_in_dims(*setup);
  auto output = output_path_from(setup->attributes.output, "output");
  auto layer_output = output_path_from(setup->attributes.layer_output, "layer_output");
  std::string description;
  call(setup, inputs, For::adapting, [&](const EngineCall& call) {  // without the GIL
    auto* const network = dynamic_cast<ScriptNetwork*>(&call.network);
    TORCH_CHECK_VALUE(network != nullptr, "the exported program cannot be cut at the layer");
    SavedEngine engine = core.saved(*network, call, parsed, in_dims);
    engine.layer = setup->layer_name;
    engine.output = std::move(output);
    engine.layer_output = std::move(layer_output);
    engine.programs = programs;
    description = description_of(engine);
  });
  return description;
}

void PythonEngine::reset(const py::object& model) {
  set_model(model);
  const auto online = online_;
  const PythonNetwork network = parameters_only(model);
  Online::check_outside_of_calls(network);
  const SharedModelLock::Hold hold(SharedModelLock::of(model), SharedModelLock::Use::alone);
  const py::gil_scoped_release no_gil;  // other threads may need it to come to their ends
  online->reset(network);
}

Drift PythonEngine::drift(const py::object& model) {
  set_model(model);
  const auto online = online_;
  const SharedModelLock::Hold hold(SharedModelLock::of(model), SharedModelLock::Use::reading);
  const PythonNetwork network = parameters_only(model);
  const py::gil_scoped_release no_gil;
  return online->drift(network);
}

std::shared_ptr<PythonEngine> PythonEngine::sibling() const {
  auto other = std::make_shared<PythonEngine>(*this);
  other->online_ = std::make_shared<Online>();
  if (setup_ != nullptr) {
    EngineSetup own = setup_->core;
    own.online = other->online_;
    other->setup_ = std::make_shared<PythonSetup>(*setup_, std::move(own));
  }
  return other;
}

py::tuple PythonEngine::state() const {
  std::optional<std::pair<Layout, Layout>> layouts;
  if (setup_ != nullptr) {
    layouts = {setup_->core.layouts.prediction, setup_->core.layouts.features};
  } else if (known_) {
    layouts = {known_->layouts.prediction, known_->layouts.features};
  }
  return py::make_tuple(
      core.is_trained.load(), core.learned_probabilities.load(), core.has_warned.load(), layouts, state_of(*online_),
      range_to_python(core.calibrated_range()));
}

std::shared_ptr<PythonEngine> PythonEngine::from_state(const py::tuple& state) {
  auto engine = std::make_shared<PythonEngine>(state[0].cast<bool>());
  engine->core.learned_probabilities = state[1].cast<bool>();
  engine->core.has_warned = state[2].cast<bool>();
  if (const auto layouts = state[3].cast<std::optional<std::pair<Layout, Layout>>>()) {
    engine->restored_ = {layouts->first, layouts->second};
  }
  engine->online_ = std::make_shared<Online>(online_from(state[4]));
  engine->core.set_calibrated_range(range_from_python(state[5]));
  return engine;
}

int PythonEngine::traverse(visitproc visit, void* arg) const {
  Py_VISIT(model_.ptr());
  if (known_) {
    if (const int stop = visit_each(known_->attributes, visit, arg); stop != 0) return stop;
  }
  const bool is_own = setup_ != nullptr && setup_.use_count() == 1;  // else a call has it too
  return is_own ? visit_each(setup_->attributes, visit, arg) : 0;
}

void PythonEngine::clear() {
  const Setup setup = std::exchange(setup_, nullptr);
  const auto known = std::exchange(known_, std::nullopt);
  const py::object model = std::exchange(model_, py::object());
}

at::Tensor uncertainty_of(const Setup& setup, const py::object& inputs, const py::dict& options) {
  const Options parsed = options_from(options);
  look_at_functions(*setup);
  const EmbedderBuffers buffers(*setup);
  return call(setup, inputs, for_adapting(parsed), [&](const EngineCall& call) {
    return uncertainty(call.network, call.method, call.inputs, parsed, &call.setup.compiled);
  });
}

void add_to(Calibration& calibration, const Setup& setup, const py::object& inputs, const py::dict& options) {
  const Options parsed = options_from(options);
  look_at_functions(*setup);
  const EmbedderBuffers buffers(*setup);
  call(setup, inputs, for_adapting(parsed), [&](const EngineCall& call) { calibration.add(call, parsed); });
}

py::object range_to_python(const std::optional<PredictionRange>& range) {
  if (!range) return py::none();
  const auto value = to_ivalue(range).toTuple()->elements().vec();
  return py::make_tuple(value.at(0).toStringRef(), value.at(1).toDouble(), value.at(2).toInt());
}

std::optional<PredictionRange> range_from_python(const py::object& range) {
  if (range.is_none()) return std::nullopt;
  const auto [kind, extreme, samples] = range.cast<std::tuple<std::string, double, std::int64_t>>();
  return prediction_range_from(c10::ivalue::Tuple::create(kind, extreme, samples));
}

Explanation explain(const Setup& setup, const py::object& inputs, const py::dict& options) {
  const Options parsed = options_from(options);
  look_at_functions(*setup);
  const InputsAsGiven as_given(inputs);
  Explanation explanation =
      call(setup, inputs, for_adapting(parsed), [&](const EngineCall& call) { return it3::explain(call, parsed); });
  explanation.shapes = call(setup, inputs, For::looking, [](const EngineCall& call) {
    return settled_shapes(call.network, call.inputs, call.setup.layouts);
  });
  const Layout* const each_by = parsed.per_sample ? &setup->core.layouts.prediction : nullptr;
  explanation.why_whole = setup->runners->why_not(inputs, setup->attributes.in_dims, each_by);
  explanation.why_not_shared = setup->runners->why_not_shared();
  return explanation;
}

}  // namespace it3::python
