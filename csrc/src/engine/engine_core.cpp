#include <it3/backend/engine_core.h>

#include <utility>

#include <c10/util/Exception.h>

#include <it3/backend/script_function.h>
#include <it3/backend/uncertainty.h>

#include "support/random_state_guard.h"

namespace it3 {
namespace {

/// The module of a function that can be saved.
template <typename Function>
const torch::jit::Module& module_of(const Function& function, const char* name, const char* alternative) {
  const auto* const script = function.template target<ScriptFunction>();
  TORCH_CHECK_VALUE(
      script != nullptr, name, " is a function that cannot be saved; use an it3::ScriptFunction, or ", alternative);
  return script->module();
}

}  // namespace

EngineCore::EngineCore(const EngineCore& other)
    : is_trained(other.is_trained.load()),
      learned_probabilities(other.learned_probabilities.load()),
      has_warned(other.has_warned.load()),
      has_seen_distribution_(other.has_seen_distribution_.load()) {
  const std::scoped_lock lock(other.mutex_);
  range_ = other.range_;
  watches_range_ = other.watches_range_;
}

Losses EngineCore::losses(
    const EngineCall& call, const std::optional<at::Tensor>& target, const TrainingRecipe& recipe) {
  // A call that fails leaves the embedder without shape, and the next one draws the same weights.
  std::optional<detail::RandomStateGuard> random_state;
  const auto& embedder = call.setup.functions.embedder;
  if (embedder != nullptr && !embedder->is_built()) random_state.emplace(tensors_of(call.network.parameters()));
  const bool is_open = call.setup.feedback == Feedback::automatic && !call.method.feeds_probabilities;
  Losses losses = training_losses(call.network, call.method, call.inputs, target, recipe, is_open);
  is_trained = true;
  warn_of_distance(call, recipe, losses);
  return losses;
}

void EngineCore::warn_of_distance(const EngineCall& call, const TrainingRecipe& recipe, const Losses& losses) {
  const std::string& distance = call.method.distance.name;
  const bool is_used = recipe.second_pass != SecondPass::none;
  const auto are_given = [&] { return are_probabilities(losses.prediction, call.method.prediction_layout); };
  if (losses.has_class_targets && !learned_probabilities) {
    learned_probabilities = !are_given();
    if (learned_probabilities && is_used && (distance == "mse" || distance == "l1")) {
      TORCH_WARN(
          "the targets are class indices, and the distance is '", distance,
          "': it draws y1 to one-hot vectors, while a loss such as cross entropy makes y0 logits, so that the two can "
          "never agree, and their distance tells nothing. Give distance_fn='cross_entropy' or 'js', or let the model "
          "return probabilities");
    }
  }
  if (is_used && is_between_distributions(distance) && !has_seen_distribution_.exchange(true) && are_given()) {
    TORCH_WARN(
        "the model returns class probabilities, but the distance '", distance,
        "' takes predictions as logits: it applies softmax to them once more, which makes all predictions nearly "
        "alike. Let the model return logits, or give distance_fn='mse' or a function of your own");
  }
}

Adaptation EngineCore::adapt(const EngineCall& call, const Options& options, bool with_details) {
  if (options.threshold) check_threshold(call);
  Adaptation result = it3::adapt(
      {.network = call.network,
       .method = call.method,
       .options = options,
       .inputs = call.inputs,
       .online = options.copy_model ? nullptr : call.setup.online.get(),
       .with_details = with_details,
       .graphs = call.setup.graphs.get(),
       .compiled = &call.setup.compiled});
  if (result.steps() > 0) compare_with_range(call, options, result.first);
  return result;
}

void EngineCore::check_threshold(const EngineCall& call) const {
  const std::optional<PredictionRange> range = calibrated_range();
  const bool feeds_probabilities = call.method.feeds_probabilities;
  const auto kind = [](bool of_probabilities) { return of_probabilities ? "class probabilities" : "predictions"; };
  TORCH_CHECK_VALUE(
      !range || (range->kind == PredictionRange::Kind::logits) == feeds_probabilities, "threshold was calibrated when ",
      kind(!feeds_probabilities), " were fed back, but now ", kind(feeds_probabilities),
      " are, whose distances have another scale; call calibrate() again, or set threshold to None");
}

void EngineCore::compare_with_range(const EngineCall& call, const Options& options, const at::Tensor& first) {
  std::unique_lock lock(mutex_);
  if (!watches_range_ || !range_) return;
  const PredictionRange range = *range_;
  lock.unlock();
  const Layout& layout = call.method.prediction_layout;
  if (PredictionRange::samples_of(first, layout) < range.samples) return;
  const double adapted = range.measure(first, layout);
  if (!range.is_exceeded_by(adapted)) return;
  if (options.copy_model) {  // else the weights from before the first call are not at hand
    const Adaptation unadapted = predict_twice(call.network, call.method, call.inputs, options, &call.setup.compiled);
    if (range.is_exceeded_by(range.measure(unadapted.first, layout))) return;
  }
  lock.lock();
  if (!std::exchange(watches_range_, false)) return;
  lock.unlock();
  const bool is_norm = range.kind == PredictionRange::Kind::numbers;
  TORCH_WARN(
      "adaptation has made predictions far more extreme than those of every batch that the engine was calibrated with: "
      "their mean ",
      is_norm ? "norm is " : "entropy is ", adapted, is_norm ? "" : " nats", ", where it was ", range.most_extreme,
      is_norm ? " at most" : " at least",
      ". They may have collapsed: compare them with those of num_steps=0, and lower lr or num_steps. The engine warns "
      "of this once");
}

double EngineCore::calibrate(const Calibration& calibration, double quantile) {
  const double threshold = calibration.threshold(quantile);
  set_calibrated_range(calibration.range());
  return threshold;
}

std::optional<PredictionRange> EngineCore::calibrated_range() const {
  const std::scoped_lock lock(mutex_);
  return range_;
}

void EngineCore::set_calibrated_range(std::optional<PredictionRange> range) {
  const std::scoped_lock lock(mutex_);
  range_ = range;
  watches_range_ = range.has_value();
}

bool EngineCore::takes_warning(const Options& options) {
  return !is_trained && options.num_steps != 0 && !has_warned.exchange(true);
}

SavedEngine EngineCore::saved(
    ScriptNetwork& network,
    const EngineCall& call,
    const Options& options,
    const std::optional<InDims>& in_dims) const {
  options.validate();
  // One by one: where an element of a braced list throws, GCC 12 destroys others twice.
  SavedEngine saved(network.module());
  saved.layer = network.layer();
  saved.prediction_layout = call.setup.layouts.prediction;
  saved.features_layout = call.setup.layouts.features;
  saved.options = options;
  saved.neutral = call.setup.neutral;
  TORCH_CHECK_VALUE(
      !std::holds_alternative<NeutralFunction>(saved.neutral),
      "neutral is a function, which a file cannot hold; give a tensor, a RandomOneHot, or DrawnLabels");
  saved.notes = take_notes(network, call.method, call.inputs);
  saved.output = network.output();
  saved.layer_output = network.layer_output();
  saved.in_dims = in_dims;
  saved.feedback = call.setup.feedback;
  saved.is_trained = is_trained;
  saved.learned_probabilities = learned_probabilities;
  saved.calibrated_range = calibrated_range();
  if (const auto& embedder = call.setup.functions.embedder) saved.embedder = embedder->weights();  // shaped by now
  saved.distance = call.setup.functions.distance.name;
  return saved;
}

void EngineCore::save(
    ScriptNetwork& network,
    const EngineCall& call,
    const Options& options,
    const std::optional<InDims>& in_dims,
    detail::NewFile& file) const {
  SavedEngine engine = saved(network, call, options, in_dims);
  const auto& [embedder, embed, combine, distance] = call.setup.functions;
  if (embedder == nullptr) engine.embedder = module_of(embed, "embed", "the default embedder");
  if (combine != nullptr) engine.combine = module_of(combine, "combine", "the default");
  if (distance.name.empty()) engine.distance = module_of(distance.to_prediction, "distance", "a distance by its name");
  const auto reading = network.lock_on(tensors_of(network.parameters())).wait(UpgradeMutex::Use::reading);
  save_engine(engine, file);
}

}  // namespace it3
