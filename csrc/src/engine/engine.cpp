#include <it3/engine.h>

#include <atomic>
#include <exception>
#include <mutex>

#include <c10/util/Exception.h>

#include <it3/backend/neutral.h>
#include <it3/backend/script_function.h>
#include <it3/backend/uncertainty.h>
#include <it3/injection.h>
#include <it3/script_network.h>

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

/// Makes an embedder that had no shape yet empty again if it is destroyed by an exception.
class ClearOnError {
 public:
  explicit ClearOnError(const Embedder& embedder)
      : embedder_(!embedder.is_empty() && !embedder->is_built() ? embedder : Embedder(nullptr)) {}
  ~ClearOnError() {
    if (!embedder_.is_empty() && std::uncaught_exceptions() > exceptions_) embedder_->clear();
  }
  ClearOnError(const ClearOnError&) = delete;
  ClearOnError& operator=(const ClearOnError&) = delete;

 private:
  Embedder embedder_;
  int exceptions_ = std::uncaught_exceptions();
};

Distance distance_of(const SavedEngine& saved) {
  if (const auto* module = std::get_if<torch::jit::Module>(&saved.distance)) return Distance(ScriptFunction(*module));
  return distance_by_name(std::get<std::string>(saved.distance));
}

std::shared_ptr<Network> checked(std::shared_ptr<Network> network) {
  TORCH_CHECK_VALUE(
      network != nullptr, "the network of an it3::Engine is null; give an it3::ModuleNetwork or an it3::ScriptNetwork");
  return network;
}

void check_functions(const Method& method) {
  const auto* const embedder = method.embed.target<Embedder>();
  TORCH_CHECK_VALUE(
      method.embed != nullptr && (embedder == nullptr || !embedder->is_empty()),
      "the embed of an it3::Engine is null; give an it3::Embedder(), or a function of (prediction, features)");
  TORCH_CHECK_VALUE(
      method.distance.to_prediction != nullptr && method.distance.to_target != nullptr,
      "the distance of an it3::Engine is null; give a function of two predictions, or leave it out");
}

/// Whether distance or feedback need to know where the prediction has its classes or components.
bool needs_classes(const std::string& distance, Feedback feedback, bool learned_probabilities) {
  return distance == "cosine" || is_between_distributions(distance) || feedback == Feedback::probabilities ||
         (feedback == Feedback::automatic && learned_probabilities);
}

}  // namespace

/// Calls until one has told what an engine has to know come one after another: one that fails leaves the embedder
/// without a shape.
struct Engine::FirstCall {
  std::mutex mutex;
  std::atomic<bool> is_over = false;
  std::atomic<bool> needed_classes =
      false;  // whether layouts were settled for a use that compares or feeds back classes
  std::atomic<bool> has_warned = false;
};

Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine::Engine(
    std::shared_ptr<Network> network, Options options_, Embed embed, Combine combine, std::optional<Distance> distance)
    : options(std::move(options_)),
      network_(checked(std::move(network))),
      embedder_(nullptr),
      has_default_combine_(combine == nullptr),
      method_{std::move(embed), std::move(combine), distance ? std::move(*distance) : distance_by_name("mse")},
      first_call_(std::make_unique<FirstCall>()) {
  check_functions(method_);
  if (const auto* embedder = method_.embed.target<Embedder>()) {
    embedder_ = *embedder;
    layouts_ = {embedder_->prediction_layout(), embedder_->features_layout()};
    is_trained = embedder_->is_built();
  }
  if (has_default_combine_) set_default_combine();
  method_.takes_any_layout = has_default_combine_ && !embedder_.is_empty();
  if (method_.takes_any_layout && !method_.distance.name.empty()) method_.reads = embedder_->parameters();
}

Engine::Engine(SavedEngine saved)
    : Engine(
          std::make_shared<ScriptNetwork>(saved.network, saved.layer, saved.output, saved.layer_output),
          saved.options,
          embed_of(saved),
          saved.combine ? Combine(ScriptFunction(*saved.combine)) : nullptr,
          distance_of(saved)) {
  layouts_ = {saved.prediction_layout, saved.features_layout};
  if (has_default_combine_) set_default_combine();
  method_.neutral = saved.neutral;
  in_dims = saved.in_dims;
  feedback = saved.feedback;
  is_trained = saved.is_trained;
  learned_probabilities_ = saved.learned_probabilities;
}

void Engine::set_default_combine() {
  method_.combine = [layout = layouts_.features](const at::Tensor& features, const at::Tensor& embedding) {
    return broadcast_add(features, embedding, layout);
  };
}

void Engine::settle(const Inputs& inputs) {
  if (are_layouts_settled_) return;
  const bool is_default = !embedder_.is_empty();
  const bool has_classes = needs_classes(method_.distance.name, feedback, learned_probabilities_);
  layouts_ = settle_layouts(
      *network_, inputs, layouts_, network_->origin_of_prediction(), network_->origin_of_features(),
      network_->layer_name(), {is_default || has_classes, is_default});
  if (is_default) embedder_->set_layouts(layouts_.prediction, layouts_.features);
  if (has_default_combine_) set_default_combine();
  are_layouts_settled_ = true;
  first_call_->needed_classes = has_classes;
}

bool Engine::look_at_first(const Inputs& inputs) {
  settle(inputs);
  const bool has_shape = embedder_.is_empty() || embedder_->is_built();
  const bool has_told = check_injection(*network_, method(), inputs);
  if (!has_shape) embedder_->clear();  // the call itself draws its weights
  return has_told;
}

template <typename Call>
auto Engine::guarded(const Inputs& inputs, const Call& call) {
  const auto turn = network_->take_turn();  // before the other lock, as in calls by the network's own functions
  // What needs the classes may have come later: other feedback, or what training has taught.
  const bool needs_classes_now = needs_classes(method_.distance.name, feedback, learned_probabilities_);
  const bool is_known = first_call_->is_over && (first_call_->needed_classes || !needs_classes_now);
  std::unique_lock<std::mutex> lock;
  if (!is_known) {
    lock = std::unique_lock(first_call_->mutex);
    if (needs_classes_now && !first_call_->needed_classes) are_layouts_settled_ = false;
  }
  const ClearOnError clear(embedder_);
  const bool has_told = !lock.owns_lock() || look_at_first(inputs);
  auto result = call();
  if (lock.owns_lock()) first_call_->is_over = has_told;
  return result;
}

std::string Engine::explain_layouts(const Inputs& inputs) {
  return guarded(inputs, [&] { return describe_layouts(*network_, inputs, layouts_); });
}

std::vector<at::Tensor> Engine::parameters() const {
  std::vector<at::Tensor> all = tensors_of(network_->parameters());
  if (!embedder_.is_empty()) {
    for (const auto& parameter : embedder_->parameters()) all.push_back(parameter);
  }
  return all;
}

void Engine::set_prediction_layout(const Layout& layout) {
  layouts_.prediction = layout;
  are_layouts_settled_ = first_call_->is_over = false;
}

Method Engine::method() const {
  Method now = method_;
  now.prediction_layout = layouts_.prediction;
  now.in_dims = in_dims;
  const bool is_named = !now.distance.name.empty();
  if (is_named) now.distance = distance_by_name(method_.distance.name, layouts_.prediction);
  now.feeds_probabilities =
      feedback == Feedback::probabilities ||
      (feedback == Feedback::automatic && (learned_probabilities_ || is_between_distributions(now.distance.name)));
  return now;
}

void Engine::warn_if_untrained() {
  if (is_trained || options.num_steps == 0 || first_call_->has_warned.exchange(true)) return;
  TORCH_WARN(untrained_warning);
}

Losses Engine::losses(
    const Inputs& inputs, const std::optional<at::Tensor>& target, std::optional<double> target_probability) {
  return guarded(inputs, [&] {
    Losses losses = training_losses(*network_, method(), inputs, target, target_probability);
    is_trained = true;
    if (losses.has_class_targets && !learned_probabilities_) {
      learned_probabilities_ = !are_probabilities(losses.prediction, layouts_.prediction);
    }
    return losses;
  });
}

Adaptation Engine::adapt(const Inputs& inputs, bool with_details) {
  Online* const online = options.copy_model ? nullptr : &online_;
  if (online != nullptr) Online::check_outside_of_calls(*network_);
  return guarded(inputs, [&] {
    warn_if_untrained();
    return it3::adapt(
        {.network = *network_,
         .method = method(),
         .options = options,
         .inputs = inputs,
         .online = online,
         .with_details = with_details,
         .graphs = &graphs_});
  });
}

at::Tensor Engine::uncertainty(const Inputs& inputs) {
  return guarded(inputs, [&] { return it3::uncertainty(*network_, method(), inputs, options); });
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

void Engine::reset() {
  Online::check_outside_of_calls(*network_);
  online_.reset(*network_);
}

Drift Engine::drift() const { return online_.drift(*network_); }

void Engine::save(const std::string& path, const Inputs& example_inputs) {
  ScriptNetwork& network = script_of(network_);
  options.validate();
  Notes notes = guarded(example_inputs, [&] { return take_notes(network, method(), example_inputs); });
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
      {},
      network.output(),
      network.layer_output(),
      in_dims,
      feedback,
      is_trained,
      learned_probabilities_};
  if (!is_default) saved.embedder = module_of(method_.embed, "embed", "the default embedder");
  if (!has_default_combine_) saved.combine = module_of(method_.combine, "combine", "the default");
  saved.distance = method_.distance.name;
  if (method_.distance.name.empty()) {
    saved.distance = module_of(method_.distance.to_prediction, "distance", "a distance by its name");
  }
  saved.notes = std::move(notes);
  if (is_default) saved.embedder = embedder_->weights();  // shaped by now
  const auto reading = network.lock_on(tensors_of(network.parameters())).wait(UpgradeMutex::Use::reading);
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
      "this adaptation does not hold its weights; call adapt(inputs, /*with_details=*/true), without per_sample");
  const ScriptNetwork& network = script_of(network_);
  const auto reading = network.lock_on(tensors_of(network.parameters())).wait(UpgradeMutex::Use::reading);
  save_module(network.with_weights(adaptation.weights), path);
}

}  // namespace it3
