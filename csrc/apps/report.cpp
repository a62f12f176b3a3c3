#include "report.h"

#include <sstream>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace it3::apps {
namespace {

using Json = nlohmann::ordered_json;

/// What is no UTF-8, as names of files may be, with a mark in its place.
std::string to_text(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

Json to_json(const OptionValue& value) {
  return std::visit(
      [](const auto& v) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
          return nullptr;
        } else {
          return v;
        }
      },
      value);
}

Json to_json(const Neutral& neutral) {
  if (const auto* const drawn = std::get_if<DrawnLabels>(&neutral)) {
    return c10::str("one of ", drawn->labels.size(0), " labels for each sample");
  }
  if (std::holds_alternative<RandomOneHot>(neutral)) return "one of the classes for each sample";
  const auto* const value = std::get_if<at::Tensor>(&neutral);
  if (value == nullptr || !value->defined()) return nullptr;
  return c10::str(value->flatten().sizes(), " ", value->min().item<double>(), " to ", value->max().item<double>());
}

/// What an engine is compiled for.
Json to_json(const SavedPrograms& programs) {
  return {{"torch", programs.torch}, {"device", c10::DeviceTypeName(programs.device_type, /*lower_case=*/true)}};
}

}  // namespace

std::string describe(const SavedEngine& engine) {
  Json options;
  for (const auto& [name, value] : engine.options.values()) options[name] = to_json(value);
  const auto* const distance = std::get_if<std::string>(&engine.distance);
  const Json json = {
      {"model", engine.notes.model},
      {"layer", engine.layer},
      {"inputs", engine.notes.inputs},
      {"prediction", engine.notes.prediction},
      {"features", engine.notes.features},
      {"distance", distance != nullptr ? *distance : "a function of its own"},
      {"neutral", to_json(engine.neutral)},
      {"options", options},
      {"compiled", engine.programs ? to_json(*engine.programs) : Json()}};
  return to_text(json);
}

std::string report(const Results& results, const Engine& engine, bool as_json) {
  const Options& options = engine.options;
  const double mean_uncertainty = results.uncertainty / static_cast<double>(results.samples);
  const auto mean_loss = [&](double sum) { return sum / static_cast<double>(results.adapted_samples); };
  const bool adapts = results.steps > 0, is_selective = options.threshold.has_value();
  const bool is_online = !options.copy_model;
  if (as_json) {
    Json json = {
        {"samples", results.samples},
        {"batches", results.batches},
        {"steps", results.steps},
        {"loss_before_first_step", adapts ? Json(mean_loss(results.first_loss)) : Json()},
        {"loss_before_last_step", adapts ? Json(mean_loss(results.last_loss)) : Json()},
        {"mean_uncertainty", mean_uncertainty},
        {"seconds", results.seconds},
        {"output", results.output}};
    if (is_selective) json["threshold"] = *options.threshold;
    if (is_selective) json["adapted_samples"] = results.adapted_samples;
    if (is_online) json["drift"] = engine.drift().relative;
    if (options.recovery_factor) json["recoveries"] = results.recoveries;
    return to_text(json);
  }
  std::ostringstream text;
  text << results.samples << " samples, " << results.batches << (results.batches == 1 ? " batch" : " batches") << ", "
       << (options.tolerance || is_selective ? "up to " : "") << results.steps << " steps each";
  if (adapts) {
    text << ": loss " << mean_loss(results.first_loss) << " before the first, " << mean_loss(results.last_loss)
         << " before the last";
  }
  if (is_selective) text << "; " << results.adapted_samples << " samples above " << *options.threshold << " adapted";
  if (is_online) text << "; weights moved by " << 100 * engine.drift().relative << " %";
  if (results.recoveries > 0) text << "; recovered " << results.recoveries << " times";
  text << "; mean uncertainty " << (adapts ? "after adapting " : "") << mean_uncertainty << "; " << results.seconds
       << " s";
  return text.str();
}

}  // namespace it3::apps
