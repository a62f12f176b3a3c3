#include <it3/options.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <tuple>
#include <utility>

#include <c10/util/Exception.h>

#include "method/option_table.h"
#include "support/nearest_name.h"

namespace it3 {
namespace {

using detail::Option;
using detail::option_table;

/// Null if none has the name.
const Option* option_called(std::string_view name) {
  const auto& table = option_table();
  const auto found = std::find_if(table.begin(), table.end(), [&](const Option& o) { return o.info.name == name; });
  return found != table.end() ? &*found : nullptr;
}

/// What others call our options.
constexpr std::array<std::pair<std::string_view, std::string_view>, 33> synonyms = {{
    {"learning_rate", "lr"},
    {"step_size", "lr"},
    {"rate", "lr"},
    {"steps", "num_steps"},
    {"n_steps", "num_steps"},
    {"inner_steps", "num_steps"},
    {"iterations", "num_steps"},
    {"num_iterations", "num_steps"},
    {"epochs", "num_steps"},
    {"optimizer", "optimizer_name"},
    {"optimiser", "optimizer_name"},
    {"wd", "weight_decay"},
    {"l2", "weight_decay"},
    {"epsilon", "eps"},
    {"beta1", "betas"},
    {"beta2", "betas"},
    {"clip", "max_grad_norm"},
    {"grad_clip", "max_grad_norm"},
    {"gradient_clipping", "max_grad_norm"},
    {"params", "parameters"},
    {"layers", "parameters"},
    {"precision", "amp"},
    {"mixed_precision", "amp"},
    {"autocast", "amp"},
    {"teacher", "anchor"},
    {"statistics", "norm_statistics"},
    {"batch_norm", "norm_statistics"},
    {"episodic", "copy_model"},
    {"tol", "tolerance"},
    {"early_stopping", "tolerance"},
    {"batch_size", "chunk_size"},
    {"restore", "restore_probability"},
    {"reset", "recovery_factor"},
}};

/// The option that a name is likely to mean: by its spelling or that of a synonym, else by what it has in common.
std::string_view likely_option(std::string_view name, const std::vector<std::string_view>& options) {
  std::string lower(name);
  std::transform(
      lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string_view nearest = options.front();
  std::size_t least = detail::edit_distance(lower, nearest);
  const auto consider = [&](std::string_view spelling, std::string_view option) {
    const std::size_t distance = detail::edit_distance(lower, spelling);
    if (distance < least) std::tie(least, nearest) = std::pair(distance, option);
  };
  for (const auto option : options) consider(option, option);
  for (const auto& [synonym, option] : synonyms) consider(synonym, option);
  if (3 * least <= lower.size()) return nearest;
  constexpr std::size_t telling = 3;  // letters that two names do not share by chance
  for (const auto option : options) {
    const bool is_in = option.size() >= telling && lower.find(option) != std::string::npos;
    if (is_in || (lower.size() >= telling && option.find(lower) != std::string_view::npos)) return option;
  }
  for (const auto& [synonym, option] : synonyms) {
    if (synonym.size() >= telling && lower.find(synonym) != std::string::npos) return option;
  }
  return nearest;
}

/// An option that says more about the choice that another makes, and that no other choice uses.
struct Refinement {
  std::string_view name;
  std::string_view takers;
  bool (*is_idle)(const Options&);
  std::string (*choice)(const Options&);
};

std::string choice_of(const Options& options, std::string_view name) {
  return c10::str(name, " is ", detail::to_text(option_called(name)->get(options)));
}

std::string optimizer_of(const Options& options) { return choice_of(options, "optimizer_name"); }

const auto& refinements() {
  static const std::vector<Refinement> all = {
      {"betas", "adam and adamw",
       [](const Options& o) {
         return o.betas && o.optimizer_name != OptimizerKind::adam && o.optimizer_name != OptimizerKind::adamw;
       },
       optimizer_of},
      {"momentum", "sgd and rmsprop",
       [](const Options& o) {
         return o.momentum && o.optimizer_name != OptimizerKind::sgd && o.optimizer_name != OptimizerKind::rmsprop;
       },
       optimizer_of},
      {"eps", "adam, adamw, rmsprop and adagrad",
       [](const Options& o) { return o.eps && o.optimizer_name == OptimizerKind::sgd; }, optimizer_of},
      {"ema_decay", "anchor='ema'", [](const Options& o) { return o.ema_decay && o.anchor != AnchorKind::ema; },
       [](const Options& o) { return choice_of(o, "anchor"); }},
      {"norm_prior", "norm_statistics='blend'",
       [](const Options& o) { return o.norm_prior && o.norm_statistics != NormStatistics::blend; },
       [](const Options& o) { return choice_of(o, "norm_statistics"); }},
      {"chunk_size", "per_sample=True", [](const Options& o) { return o.chunk_size && !o.per_sample; },
       [](const Options& o) { return choice_of(o, "per_sample"); }},
      {"patience", "a tolerance", [](const Options& o) { return o.patience && !o.tolerance; },
       [](const Options& o) { return choice_of(o, "tolerance"); }},
  };
  return all;
}

}  // namespace

void Options::set(std::string_view name, const OptionValue& value) {
  if (name == "online") {
    const bool* const is_online = std::get_if<bool>(&value);
    const bool is_given = !std::holds_alternative<std::monostate>(value);
    TORCH_CHECK_TYPE(is_online != nullptr || !is_given, "online must be True or False, not ", detail::to_text(value));
    if (is_given) copy_model = !*is_online;
    return;
  }
  if (const Option* const option = option_called(name)) return option->set(*this, value);
  std::vector<std::string_view> names;
  for (const Option& option : option_table()) names.emplace_back(option.info.name);
  TORCH_CHECK_VALUE(
      false, "no option is called '", name, "'; did you mean '", likely_option(name, names), "'? The options are ",
      detail::join(names));
}

std::vector<std::pair<std::string, OptionValue>> Options::values() const {
  std::vector<std::pair<std::string, OptionValue>> set;
  for (const Option& option : option_table()) {
    OptionValue value = option.get(*this);
    if (!std::holds_alternative<std::monostate>(value)) set.emplace_back(option.info.name, std::move(value));
  }
  return set;
}

void Options::validate() const {
  // Calls mostly have the options of the call before.
  thread_local std::optional<Options> last_valid;
  if (last_valid == *this) return;
  Options checked;
  for (const auto& [name, value] : values()) checked.set(name, value);
  const auto check = [](bool accepted, std::string_view option, std::string_view takers, const auto& given) {
    TORCH_CHECK_VALUE(accepted, option, " is for ", takers, ", but ", given, "; leave ", option, " out or change that");
  };
  for (const auto& refinement : refinements()) {
    check(!refinement.is_idle(*this), refinement.name, refinement.takers, refinement.choice(*this));
  }
  check(copy_model || !per_sample, "per_sample", "copy_model=True", "copy_model is False");
  last_valid = *this;
}

void Options::check_spellings(const std::vector<std::pair<std::string, OptionValue>>& settings) {
  const auto value_of = [&](std::string_view name) {
    const auto found = std::find_if(settings.begin(), settings.end(), [&](const auto& s) { return s.first == name; });
    const bool* const value = found != settings.end() ? std::get_if<bool>(&found->second) : nullptr;
    return value != nullptr ? std::optional(*value) : std::nullopt;
  };
  const auto is_online = value_of("online"), copies = value_of("copy_model");
  TORCH_CHECK_VALUE(
      !is_online || !copies || *is_online != *copies, "online=", *is_online ? "True" : "False",
      " is another spelling of copy_model=", *is_online ? "False" : "True", ", but copy_model is ",
      *copies ? "True" : "False", " too; give one of the two");
}

void Options::override_with(const std::vector<std::pair<std::string, OptionValue>>& others) {
  check_spellings(others);
  Options changed = *this;
  for (const auto& [name, value] : others) changed.set(name, value);
  for (const auto& refinement : refinements()) {
    const auto is_it = [&](const auto& other) { return other.first == refinement.name; };
    const bool is_given = std::any_of(others.begin(), others.end(), is_it);
    if (!is_given && refinement.is_idle(changed)) changed.set(refinement.name, std::monostate());
  }
  changed.validate();
  *this = std::move(changed);
}

const std::vector<OptionInfo>& option_infos() {
  static const auto infos = [] {
    std::vector<OptionInfo> all;
    for (const Option& option : option_table()) all.push_back(option.info);
    return all;
  }();
  return infos;
}

std::string_view to_string(OptimizerKind name) { return detail::optimizer_names().at(static_cast<std::size_t>(name)); }

}  // namespace it3
