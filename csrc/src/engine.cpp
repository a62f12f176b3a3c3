#include <it3/engine.h>

#include <c10/util/Exception.h>

#include <it3/neutral.h>
#include <it3/script_function.h>
#include <it3/script_network.h>
#include <it3/uncertainty.h>

namespace it3 {
namespace {

ScriptNetwork& script_of(const std::shared_ptr<Network>& network) {
  auto* const script = dynamic_cast<ScriptNetwork*>(network.get());
  TORCH_CHECK_VALUE(
      script != nullptr, "only an engine around a ScriptNetwork can be saved; export the model to TorchScript");
  return *script;
}

/// The module of a function that can be saved.
template <typename Function>
const torch::jit::Module& module_of(const Function& function, const char* name, const char* alternative) {
  const auto* const script = function.template target<ScriptFunction>();
  TORCH_CHECK_VALUE(
      script != nullptr, name, " is a function that cannot be saved; use an it3::ScriptFunction, or ", alternative);
  return script->module();
}

Embed embed_of(const SavedEngine& saved) {
  if (const auto* module = std::get_if<torch::jit::Module>(&saved.embedder)) return ScriptFunction(*module);
  Embedder embedder(saved.prediction_layout, saved.features_layout);
  embedder->set_weights(std::get<EmbedderWeights>(saved.embedder));
  return embedder;
}

Distance distance_of(const SavedEngine& saved) {
  if (const auto* module = std::get_if<torch::jit::Module>(&saved.distance)) return Distance(ScriptFunction(*module));
  return distance_by_name(std::get<std::string>(saved.distance));
}

}  // namespace

Engine::Engine(
    std::shared_ptr<Network> network, Options options_, Embed embed, Combine combine, std::optional<Distance> distance)
    : options(std::move(options_)),
      network_(std::move(network)),
      embedder_(nullptr),
      has_default_combine_(combine == nullptr),
      method_{std::move(embed), std::move(combine), distance ? std::move(*distance) : distance_by_name("mse")} {
  if (const auto* embedder = method_.embed.target<Embedder>()) {
    embedder_ = *embedder;
    layouts_ = {embedder_->prediction_layout(), embedder_->features_layout()};
  }
  if (has_default_combine_) set_default_combine();
  method_.takes_any_layout = has_default_combine_ && !embedder_.is_empty();
  if (method_.takes_any_layout && !method_.distance.name.empty()) method_.reads = embedder_->parameters();
}

Engine::Engine(SavedEngine saved)
    : Engine(
          std::make_shared<ScriptNetwork>(saved.network, saved.layer),
          saved.options,
          embed_of(saved),
          saved.combine ? Combine(ScriptFunction(*saved.combine)) : nullptr,
          distance_of(saved)) {
  layouts_ = {saved.prediction_layout, saved.features_layout};
  if (has_default_combine_) set_default_combine();
  method_.neutral = saved.neutral;
}

void Engine::set_default_combine() {
  method_.combine = [layout = layouts_.features](const at::Tensor& features, const at::Tensor& embedding) {
    return broadcast_add(features, embedding, layout);
  };
}

void Engine::settle(const Inputs& inputs) {
  const std::scoped_lock lock(*settling_);
  if (are_layouts_settled_) return;
  const bool is_needed = !embedder_.is_empty();
  layouts_ = settle_layouts(
      *network_, inputs, layouts_, network_->origin_of_prediction(), network_->origin_of_features(),
      network_->layer_name(), {is_needed, is_needed});
  if (is_needed) embedder_->set_layouts(layouts_.prediction, layouts_.features);
  if (has_default_combine_) set_default_combine();
  are_layouts_settled_ = true;
}

std::string Engine::explain_layouts(const Inputs& inputs) {
  settle(inputs);
  return describe_layouts(*network_, inputs, layouts_);
}

std::vector<at::Tensor> Engine::parameters() const {
  std::vector<at::Tensor> all = tensors_of(network_->parameters());
  if (!embedder_.is_empty()) {
    for (const auto& parameter : embedder_->parameters()) all.push_back(parameter);
  }
  return all;
}

Losses Engine::losses(
    const Inputs& inputs, const std::optional<at::Tensor>& target, std::optional<double> target_probability) {
  settle(inputs);
  return training_losses(*network_, method_, inputs, target, layouts_.prediction, target_probability);
}

Adaptation Engine::adapt(const Inputs& inputs, bool in_full) {
  settle(inputs);
  const bool is_new = !embedder_.is_empty() && !embedder_->is_built();
  try {
    return it3::adapt(*network_, method_, options, inputs, options.copy_model ? nullptr : &online_, in_full, &graphs_);
  } catch (...) {
    if (is_new) embedder_->clear();
    throw;
  }
}

at::Tensor Engine::uncertainty(const Inputs& inputs) {
  options.validate();
  settle(inputs);
  return it3::uncertainty(*network_, method_, inputs, options.normalisation);
}

double Engine::calibrate(const std::vector<Inputs>& clean, double quantile) {
  std::vector<at::Tensor> distances;
  distances.reserve(clean.size());
  for (const auto& inputs : clean) distances.push_back(uncertainty(inputs));
  const double threshold = quantile_of(distances, quantile);
  options.threshold = threshold;
  return threshold;
}

void Engine::set_neutral(at::Tensor neutral) {
  check_neutral(neutral);
  method_.neutral = std::move(neutral);
}

void Engine::reset() { online_.reset(*network_); }

Drift Engine::drift() const { return online_.drift(*network_); }

void Engine::save(const std::string& path, const Inputs& example_inputs) {
  ScriptNetwork& network = script_of(network_);
  options.validate();
  settle(example_inputs);
  const bool is_default = !embedder_.is_empty();
  SavedEngine saved{
      network.module(),
      network.layer(),
      EmbedderWeights{},
      layouts_.prediction,
      layouts_.features,
      {},
      {},
      options,
      method_.neutral,
      {}};
  if (!is_default) saved.embedder = module_of(method_.embed, "embed", "the default embedder");
  if (!has_default_combine_) saved.combine = module_of(method_.combine, "combine", "the default");
  saved.distance = method_.distance.name;
  if (method_.distance.name.empty()) {
    saved.distance = module_of(method_.distance.to_prediction, "distance", "a distance by its name");
  }
  saved.notes = take_notes(network, method_, example_inputs);
  if (is_default) saved.embedder = embedder_->weights();  // shaped by now
  save_engine(saved, path);
}

Engine Engine::load(const std::string& path, std::optional<c10::Device> device) {
  return Engine(load_engine(path, device));
}

void Engine::save_adapted(const Adaptation& adaptation, const std::string& path) const {
  TORCH_CHECK_VALUE(
      !method_.neutral.defined(),
      "this engine predicts by injecting a neutral signal, which the plain network does not; save the engine instead");
  TORCH_CHECK_VALUE(
      adaptation.steps() == 0 || !adaptation.weights.empty(),
      "this adaptation does not hold its weights; call adapt(inputs, /*in_full=*/true), without per_sample");
  save_module(script_of(network_).with_weights(adaptation.weights), path);
}

}  // namespace it3
