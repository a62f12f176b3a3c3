#include <it3/engine.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include <c10/util/Exception.h>

#include <it3/backend/engine_core.h>
#include <it3/backend/engine_setup.h>
#include <it3/backend/engine_state.h>
#include <it3/backend/first_call.h>
#include <it3/backend/script_function.h>
#include <it3/backend/uncertainty.h>
#include <it3/error_text.h>
#include <it3/exported_network.h>
#include <it3/injection.h>
#include <it3/script_network.h>

#include "files/new_file.h"
#include "files/saved_module.h"
#include "support/write_all.h"

namespace it3 {
namespace {

/// it3::Embedder, of which every call is embed().
class ModuleEmbedder : public LazyEmbedder {
 public:
  explicit ModuleEmbedder(Embedder module) : LazyEmbedder(module.get()), module_(std::move(module)) {}

  bool is_built() const override { return module_->is_built(); }
  std::function<void()> clearing() override {
    const auto none = empty_embedder_weights(module_->weights().weight1.options().requires_grad(false));
    return [module = module_, none]() mutable { module->set_weights(none); };
  }
  Layouts layouts() const override { return {module_->prediction_layout(), module_->features_layout()}; }
  void set_layouts(const Layouts& layouts) override { module_->set_layouts(layouts.prediction, layouts.features); }
  EmbedderWeights weights() const override { return module_->weights(); }
  bool is_plain() const override { return true; }
  at::Tensor operator()(const at::Tensor& prediction, const at::Tensor& features) override {
    return module_->forward(prediction, features);
  }

 private:
  mutable Embedder module_;
};

ScriptNetwork& script_of(const std::shared_ptr<Network>& network) {
  TORCH_CHECK_VALUE(
      dynamic_cast<ExportedNetwork*>(network.get()) == nullptr,
      "an engine around a program of torch.export cannot be saved as TorchScript, as the file would not hold which "
      "sizes of inputs the program is for; keep the program's own file, and write what training and adaptation have "
      "changed by save_state()");
  auto* const script = dynamic_cast<ScriptNetwork*>(network.get());
  TORCH_CHECK_VALUE(
      script != nullptr, "only an engine around a ScriptNetwork can be saved; export the model to TorchScript");
  return *script;
}

Embed embed_of(const SavedEngine& saved) {
  if (const auto* function = std::get_if<SavedModule>(&saved.embedder)) return function_of(*function);
  const auto& weights = std::get<EmbedderWeights>(saved.embedder);
  Embedder embedder(saved.prediction_layout, saved.features_layout, weights.extra_channels);
  if (weights.are_learned()) embedder->set_weights(weights);
  return embedder;
}

Distance distance_of(const SavedEngine& saved) {
  if (const auto* function = std::get_if<SavedModule>(&saved.distance)) return Distance(function_of(*function));
  return distance_by_name(std::get<std::string>(saved.distance));
}

std::shared_ptr<Network> network_of(const SavedEngine& saved) {
  if (const auto* const module = std::get_if<torch::jit::Module>(&saved.network)) {
    return std::make_shared<ScriptNetwork>(*module, saved.layer, saved.output, saved.layer_output);
  }
  ExportedGraph graph = std::get<ExportedGraph>(saved.network);
  mark_layer(graph, saved.layer, saved.layer_output);
  return std::make_shared<ExportedNetwork>(graph, saved.layer);
}

std::shared_ptr<Network> checked(std::shared_ptr<Network> network) {
  TORCH_CHECK_VALUE(
      network != nullptr, "the network of an it3::Engine is null; give an it3::ModuleNetwork or an it3::ScriptNetwork");
  return network;
}

/// Null for another embedder.
Embedder default_embedder_in(const Embed& embed) {
  const auto* const embedder = embed.target<Embedder>();
  return embedder != nullptr ? *embedder : Embedder(nullptr);
}

EngineSetup setup_of(const Embedder& embedder, Embed embed, Combine combine, std::optional<Distance> distance) {
  EngineFunctions functions{
      .combine = std::move(combine), .distance = distance ? std::move(*distance) : distance_by_name("mse")};
  if (!embedder.is_empty()) {
    functions.embedder = std::make_shared<ModuleEmbedder>(embedder);
  } else if (embed.target<Embedder>() == nullptr) {
    functions.embed = std::move(embed);
  }
  EngineSetup setup{.functions = std::move(functions)};
  setup.check();
  if (setup.functions.embedder != nullptr) setup.layouts = setup.functions.embedder->layouts();
  return setup;
}

}  // namespace

/// What stays between calls, and the setup of the next one.
struct Engine::State {
  explicit State(EngineSetup first)
      : core(first.functions.embedder != nullptr && first.functions.embedder->has_trained_weights()),
        setup(std::make_shared<EngineSetup>(std::move(first))) {}

  /// The setup of a call with this feedback.
  std::shared_ptr<const EngineSetup> setup_for(Feedback feedback) {
    const std::scoped_lock lock(mutex);
    const bool learned = core.learned_probabilities;
    if (setup->feedback != feedback || setup->learned_probabilities != learned) {
      EngineSetup changed = *setup;
      changed.feedback = feedback;
      changed.learned_probabilities = learned;
      take(std::move(changed));
    }
    return setup;
  }

  /// Replaces the setup by one that `change` has changed.
  template <typename Change>
  void change_setup(const Change& change) {
    const std::scoped_lock lock(mutex);
    EngineSetup changed = *setup;
    change(changed);
    changed.check();
    take(std::move(changed));
  }

  /// Replaces a setup by what looking at it gave, unless it was replaced meanwhile.
  std::shared_ptr<const EngineSetup> looked(const std::shared_ptr<const EngineSetup>& at, EngineSetup gave) {
    if (!gave.computes_as(*at)) gave.compiled.clear();
    auto settled = std::make_shared<const EngineSetup>(std::move(gave));
    const std::scoped_lock lock(mutex);
    if (setup == at) setup = settled;
    return settled;
  }

  EngineCore core;

 private:
  void take(EngineSetup changed) {
    changed.is_looked_at = changed.is_looked_at && !changed.lacks_classes();
    changed.graphs = std::make_shared<Graphs>();
    if (!changed.computes_as(*setup)) changed.compiled.clear();
    setup = std::make_shared<const EngineSetup>(std::move(changed));
  }

  std::mutex mutex;  // of the setup
  std::shared_ptr<const EngineSetup> setup;
};

Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine::Engine(
    std::shared_ptr<Network> network, Options options_, Embed embed, Combine combine, std::optional<Distance> distance)
    : options(std::move(options_)),
      network_(checked(std::move(network))),
      embedder_(default_embedder_in(embed)),
      state_(std::make_unique<State>(setup_of(embedder_, std::move(embed), std::move(combine), std::move(distance)))) {}

Engine::Engine(SavedEngine saved)
    : Engine(
          network_of(saved),
          saved.options,
          embed_of(saved),
          saved.combine ? Combine(function_of(*saved.combine)) : nullptr,
          distance_of(saved)) {
  in_dims = saved.in_dims;
  feedback = saved.feedback;
  state_->core.is_trained = saved.is_trained;
  state_->core.learned_probabilities = saved.learned_probabilities;
  state_->core.set_calibrated_range(saved.calibrated_range);
  state_->change_setup([&](EngineSetup& setup) {
    setup.layouts = {saved.prediction_layout, saved.features_layout};
    setup.neutral = saved.neutral;
  });
  if (!saved.programs) return;
  std::string why = saved.programs->layer == saved.layer
                        ? saved.programs->why_not(saved.device())
                        : "they were compiled for the layer '" + saved.programs->layer + "'";
  if (why.empty()) {
    try {
      std::map<std::string, at::Tensor> of_functions = saved.tensors_of_functions();
      if (!embedder_.is_empty()) {
        for (const auto& each : embedder_->named_parameters()) {
          of_functions.emplace("embedder." + each.key(), each.value());
        }
      }
      const auto compiled = saved.programs->bind(*network_, state_->setup_for(feedback)->method(in_dims), of_functions);
      state_->change_setup([&](EngineSetup& setup) { setup.compiled = {compiled}; });
      return;
    } catch (const std::exception& error) {
      why = error_text(error);
    }
  }
  TORCH_WARN("the compiled programs of the saved engine are not used: ", why, "; calls run without them, slower");
}

template <typename Work>
auto Engine::call(const Inputs& inputs, const Work& work) {
  const auto turn = network_->take_turn();  // before the other locks, as in calls by the network's own functions
  auto setup = state_->setup_for(feedback);
  const FirstUse first_use(setup->functions.embedder);
  const auto call_by = [&](const EngineSetup& current) {
    return EngineCall{*network_, inputs, current, current.method(in_dims)};
  };
  if (!setup->is_looked_at) {
    const auto& embedder = setup->functions.embedder;
    const ModelLock lock = embedder != nullptr ? embedder->lock() : ModelLock({}, {state_.get()});
    const auto alone = lock.wait(UpgradeMutex::Use::alone);
    setup = state_->setup_for(feedback);
    if (!setup->is_looked_at) {
      setup = state_->looked(
          setup, look_at_first(call_by(*setup), network_->origin_of_prediction(), network_->origin_of_features()));
    }
  }
  return work(call_by(*setup));
}

Explanation Engine::explain(const Inputs& inputs) {
  return call(inputs, [&](const EngineCall& call) {
    Explanation explanation = it3::explain(call, options);
    explanation.shapes = settled_shapes(call.network, call.inputs, call.setup.layouts);
    return explanation;
  });
}

std::vector<at::Tensor> Engine::parameters() const {
  std::vector<at::Tensor> all = tensors_of(network_->parameters());
  if (!embedder_.is_empty()) {
    for (const auto& parameter : embedder_->parameters()) all.push_back(parameter);
  }
  return all;
}

Layout Engine::prediction_layout() const { return state_->setup_for(feedback)->layouts.prediction; }

void Engine::set_prediction_layout(const Layout& layout) {
  state_->change_setup([&](EngineSetup& setup) {
    setup.layouts.prediction = layout;
    setup.is_looked_at = false;
  });
}

bool Engine::is_trained() const { return state_->core.is_trained; }

void Engine::set_trained(bool is_trained) { state_->core.is_trained = is_trained; }

Neutral Engine::neutral() const { return state_->setup_for(feedback)->neutral; }

void Engine::set_neutral(Neutral neutral) {
  state_->change_setup([&](EngineSetup& setup) { setup.neutral = std::move(neutral); });
}

Losses Engine::losses(const Inputs& inputs, const std::optional<at::Tensor>& target) {
  return call(inputs, [&](const EngineCall& call) { return state_->core.losses(call, target, training_recipe); });
}

Adaptation Engine::adapt(const Inputs& inputs, bool with_details) {
  if (!options.copy_model) Online::check_outside_of_calls(*network_);
  return call(inputs, [&](const EngineCall& call) {
    if (state_->core.takes_warning(options)) {
      TORCH_WARN(untrained_warning);
    }
    return state_->core.adapt(call, options, with_details);
  });
}

at::Tensor Engine::uncertainty(const Inputs& inputs) {
  return call(inputs, [&](const EngineCall& call) {
    return it3::uncertainty(call.network, call.method, call.inputs, options, &call.setup.compiled);
  });
}

void Engine::add_to(Calibration& calibration, const Inputs& clean) {
  call(clean, [&](const EngineCall& call) { calibration.add(call, options); });
}

double Engine::calibrate_by(const Calibration& calibration, double quantile) {
  const double threshold = state_->core.calibrate(calibration, quantile);
  options.threshold = threshold;
  return threshold;
}

double Engine::calibrate(const std::vector<Inputs>& clean, double quantile) {
  Calibration calibration;
  for (const auto& inputs : clean) add_to(calibration, inputs);
  return calibrate_by(calibration, quantile);
}

std::optional<PredictionRange> Engine::calibrated_range() const { return state_->core.calibrated_range(); }

void Engine::set_calibrated_range(std::optional<PredictionRange> range) { state_->core.set_calibrated_range(range); }

void Engine::reset() {
  Online::check_outside_of_calls(*network_);
  state_->setup_for(feedback)->online->reset(*network_);
}

Drift Engine::drift() const { return state_->setup_for(feedback)->online->drift(*network_); }

void Engine::save(const std::string& path, const Inputs& example_inputs) {
  ScriptNetwork& network = script_of(network_);
  detail::NewFile file(path);
  call(example_inputs, [&](const EngineCall& call) { state_->core.save(network, call, options, in_dims, file); });
  file.commit();
}

std::map<std::string, at::Tensor> Engine::tensors() const {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : network_->named_tensors()) tensors.emplace("model." + name, tensor);
  if (!embedder_.is_empty()) {
    for (const auto& parameter : embedder_->named_parameters()) {
      tensors.emplace("embedder." + parameter.key(), parameter.value());
    }
  }
  return tensors;
}

EngineState Engine::state() const {
  const auto turn = network_->take_turn();
  const auto reading = network_->lock_on(tensors_of(network_->parameters())).wait(UpgradeMutex::Use::reading);
  const EngineCore& core = state_->core;
  EngineState state{tensors(), core.is_trained, core.learned_probabilities, {}};
  for (auto& [name, tensor] : state.tensors) tensor = tensor.detach().clone();
  const auto setup = state_->setup_for(feedback);
  state.online = setup->online->state();
  for (Online::Start& start : state.online.start) start = {start.name, start.value};  // for any engine, as in a file
  return state;
}

void Engine::set_state(const EngineState& state) {
  Online::check_outside_of_calls(*network_);
  const auto turn = network_->take_turn();
  const auto parameters = network_->parameters();
  const auto alone = network_->lock_on(tensors_of(parameters)).wait(UpgradeMutex::Use::alone);
  const auto own = tensors();
  const auto device = parameters.empty() ? c10::Device(at::kCPU) : parameters.front().tensor.device();
  state.check_fits(own);
  std::vector<at::Tensor> shaped, values, unshaped, new_values;
  for (const auto& [name, tensor] : own) {
    const at::Tensor& value = state.tensors.at(name);
    if (tensor.sizes() == value.sizes()) {
      shaped.push_back(tensor);
      values.push_back(value);
    } else {  // an embedder's, which has no dtype and device of its own yet, or not of this shape
      unshaped.push_back(tensor);
      new_values.push_back(value.detach().to(device, value.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
    }
  }
  const auto online = std::make_shared<Online>(state.online);
  detail::write_all(shaped, values);  // which fails for all or none; what comes behind it does not
  for (std::size_t i = 0; i < unshaped.size(); ++i) unshaped[i].set_data(new_values[i]);
  state_->core.is_trained = state.is_trained;
  state_->core.learned_probabilities = state.learned_probabilities;
  state_->change_setup([&](EngineSetup& setup) { setup.online = online; });
}

void Engine::save_state(const std::string& path) const { write_state(state(), path); }

void Engine::load_state(const std::string& path) { set_state(read_state(path)); }

Engine Engine::load(const std::string& path, std::optional<c10::Device> device) {
  return Engine(load_engine(path, device));
}

void Engine::save_adapted(const Adaptation& adaptation, const std::string& path) const {
  TORCH_CHECK_VALUE(
      !is_given(neutral()),
      "this engine predicts by injecting a neutral signal, which the plain network does not; save the engine instead");
  TORCH_CHECK_VALUE(
      adaptation.steps() == 0 || !adaptation.weights.empty(),
      "this adaptation does not hold its weights; call adapt(inputs, /*with_details=*/true), without per_sample");
  const ScriptNetwork& network = script_of(network_);
  const auto reading = network.lock_on(tensors_of(network.parameters())).wait(UpgradeMutex::Use::reading);
  detail::NewFile file(path);
  detail::save_module(network.with_weights(adaptation.weights), file);
  file.commit();
}

}  // namespace it3
