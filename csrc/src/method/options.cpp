#include <it3/options.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <functional>
#include <sstream>
#include <tuple>
#include <utility>

#include <c10/util/Exception.h>

#include "support/nearest_name.h"

namespace it3 {
namespace {

// In the order of the enumerations.
constexpr std::array<std::string_view, 5> optimizer_names = {"adam", "adamw", "sgd", "rmsprop", "adagrad"};
constexpr std::array<std::string_view, 3> anchor_names = {"none", "frozen", "ema"};
constexpr std::array<std::string_view, 3> statistics_names = {"running", "batch", "blend"};
constexpr std::array<std::string_view, 2> amp_names = {"bf16", "fp16"};
constexpr std::array<std::string_view, 2> graphs_names = {"off", "auto"};
constexpr std::array<at::ScalarType, 2> amp_types = {at::kBFloat16, at::kHalf};
constexpr std::array<std::string_view, 3> prediction_names = {"first", "second", "mean"};

template <typename Name, std::size_t count>
std::string_view name_of(Name value, const std::array<std::string_view, count>& names) {
  return names.at(static_cast<std::size_t>(value));
}

/// The name of an enumerator; of a number that is none, the number, for set() to refuse.
template <typename Name, std::size_t count>
OptionValue value_of(Name value, const std::array<std::string_view, count>& names) {
  const auto number = static_cast<std::int64_t>(value);
  if (number < 0 || number >= static_cast<std::int64_t>(count)) return number;
  return std::string(name_of(value, names));
}

OptionValue value_of(at::ScalarType amp) {
  const auto found = std::find(amp_types.begin(), amp_types.end(), amp);
  if (found == amp_types.end()) return std::string(at::toString(amp));
  return std::string(amp_names.at(static_cast<std::size_t>(found - amp_types.begin())));
}

/// What others call our options.
constexpr std::array<std::pair<std::string_view, std::string_view>, 34> synonyms = {{
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
    {"online", "copy_model"},
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

/// As Python writes it: a whole number that is none by its type shows that.
std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  if (std::isfinite(value) && text.str().find_first_of(".e") == std::string::npos) text << ".0";
  return text.str();
}

std::string to_text(const OptionValue& value) {
  std::ostringstream text;
  const auto list = [&](const auto& items, const char* quote) {
    text << '[';
    for (std::size_t i = 0; i < items.size(); ++i) text << (i ? ", " : "") << quote << items[i] << quote;
    text << ']';
  };
  if (std::holds_alternative<std::monostate>(value)) text << "None";
  if (const auto* v = std::get_if<bool>(&value)) text << (*v ? "True" : "False");
  if (const auto* v = std::get_if<std::int64_t>(&value)) text << *v;
  if (const auto* v = std::get_if<double>(&value)) text << number_text(*v);
  if (const auto* v = std::get_if<std::string>(&value)) text << '\'' << *v << '\'';
  if (const auto* v = std::get_if<std::vector<double>>(&value)) list(*v, "");
  if (const auto* v = std::get_if<std::vector<std::string>>(&value)) list(*v, "'");
  return text.str();
}

/// One option being set: its name and value, and the errors they can give.
struct Setting {
  std::string_view name;
  const OptionValue& value;

  [[noreturn]] void wrong_type(std::string_view accepted) const {
    C10_THROW_ERROR(TypeError, c10::str(name, " must be ", accepted, ", not ", to_text(value)));
  }

  void check(bool in_range, std::string_view accepted) const {
    TORCH_CHECK_VALUE(in_range, name, " must be ", accepted, ", not ", to_text(value));
  }

  double number(std::string_view accepted) const {
    if (const auto* v = std::get_if<double>(&value)) return *v;
    if (const auto* v = std::get_if<std::int64_t>(&value)) return static_cast<double>(*v);
    wrong_type(accepted);
  }

  double number_where(bool (*in_range)(double), std::string_view accepted) const {
    const double v = number(accepted);
    check(in_range(v), accepted);
    return v;
  }

  /// Nothing for None.
  std::optional<double> optional_number_where(bool (*in_range)(double), std::string_view accepted) const {
    if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
    return number_where(in_range, accepted);
  }

  double number_from_zero() const { return number_where(is_from_zero, "a number, 0 or more"); }
  std::optional<double> optional_number_from_zero() const {
    return optional_number_where(is_from_zero, "a number, 0 or more");
  }

  std::int64_t whole_number_from(std::int64_t least) const {
    const std::string accepted = c10::str("a whole number, ", least, " or more");
    const auto* v = std::get_if<std::int64_t>(&value);
    if (v == nullptr) wrong_type(accepted);
    check(*v >= least, accepted);
    return *v;
  }

  bool boolean() const {
    const auto* v = std::get_if<bool>(&value);
    if (v == nullptr) wrong_type("True or False");
    return *v;
  }

  /// The enumerator of a name.
  template <typename Name, std::size_t count>
  Name one_of(const std::array<std::string_view, count>& names) const {
    const std::string accepted = "one of " + detail::join(names);
    const auto* v = std::get_if<std::string>(&value);
    if (v == nullptr) wrong_type(accepted);
    const auto found = std::find(names.begin(), names.end(), *v);
    check(found != names.end(), accepted);
    return static_cast<Name>(found - names.begin());
  }

 private:
  static bool is_from_zero(double v) { return std::isfinite(v) && v >= 0; }
};

bool is_share(double v) { return v >= 0 && v <= 1; }

void set_anchor(Options& options, const Setting& setting) {
  // None is what the anchor "none" is called in Python.
  const bool is_none = std::holds_alternative<std::monostate>(setting.value);
  options.anchor = is_none ? AnchorKind::none : setting.one_of<AnchorKind>(anchor_names);
}

/// Nothing for None.
std::optional<std::int64_t> optional_whole_number(const Setting& setting) {
  if (std::holds_alternative<std::monostate>(setting.value)) return std::nullopt;
  return setting.whole_number_from(1);
}

void set_amp(Options& options, const Setting& setting) {
  options.amp.reset();
  if (!std::holds_alternative<std::monostate>(setting.value))
    options.amp = amp_types[setting.one_of<std::size_t>(amp_names)];
}

void set_betas(Options& options, const Setting& setting) {
  constexpr std::string_view accepted = "two numbers from 0 to below 1";
  if (std::holds_alternative<std::monostate>(setting.value)) {
    options.betas.reset();
    return;
  }
  const auto* betas = std::get_if<std::vector<double>>(&setting.value);
  if (betas == nullptr) setting.wrong_type(accepted);
  const auto in_range = [](double beta) { return beta >= 0 && beta < 1; };
  setting.check(betas->size() == 2 && in_range((*betas)[0]) && in_range((*betas)[1]), accepted);
  options.betas = {(*betas)[0], (*betas)[1]};
}

void set_parameters(Options& options, const Setting& setting) {
  constexpr std::string_view accepted = "'all', 'norm', or one or more patterns of parameter names";
  if (const auto* one = std::get_if<std::string>(&setting.value)) {
    options.parameters = {*one};
  } else if (const auto* many = std::get_if<std::vector<std::string>>(&setting.value)) {
    setting.check(!many->empty(), accepted);
    options.parameters = *many;
  } else {
    setting.wrong_type(accepted);
  }
}

using Setter = std::function<void(Options&, const Setting&)>;

const auto& setters() {
  static const std::vector<std::pair<std::string_view, Setter>> all = {
      {"optimizer_name",
       [](Options& o, const Setting& s) { o.optimizer_name = s.one_of<OptimizerKind>(optimizer_names); }},
      {"num_steps", [](Options& o, const Setting& s) { o.num_steps = s.whole_number_from(0); }},
      {"lr", [](Options& o, const Setting& s) { o.lr = s.number_from_zero(); }},
      {"betas", set_betas},
      {"eps", [](Options& o, const Setting& s) { o.eps = s.optional_number_from_zero(); }},
      {"weight_decay", [](Options& o, const Setting& s) { o.weight_decay = s.optional_number_from_zero(); }},
      {"momentum", [](Options& o, const Setting& s) { o.momentum = s.optional_number_from_zero(); }},
      {"copy_model", [](Options& o, const Setting& s) { o.copy_model = s.boolean(); }},
      {"max_grad_norm",
       [](Options& o, const Setting& s) {  // infinity is no limit
         o.max_grad_norm = s.optional_number_where([](double v) { return v > 0; }, "a number above 0, or None");
       }},
      {"parameters", set_parameters},
      {"amp", set_amp},
      {"cuda_graphs", [](Options& o, const Setting& s) { o.cuda_graphs = s.one_of<int>(graphs_names) == 1; }},
      {"anchor", set_anchor},
      {"ema_decay",
       [](Options& o, const Setting& s) { o.ema_decay = s.optional_number_where(is_share, "a number from 0 to 1"); }},
      {"norm_statistics",
       [](Options& o, const Setting& s) { o.normalization.statistics = s.one_of<NormStatistics>(statistics_names); }},
      {"norm_prior", [](Options& o, const Setting& s) { o.normalization.prior = s.optional_number_from_zero(); }},
      {"prediction", [](Options& o, const Setting& s) { o.prediction = s.one_of<PredictionKind>(prediction_names); }},
      {"tolerance", [](Options& o, const Setting& s) { o.tolerance = s.optional_number_from_zero(); }},
      {"patience", [](Options& o, const Setting& s) { o.patience = optional_whole_number(s); }},
      {"per_sample", [](Options& o, const Setting& s) { o.per_sample = s.boolean(); }},
      {"chunk_size", [](Options& o, const Setting& s) { o.chunk_size = optional_whole_number(s); }},
      {"threshold", [](Options& o, const Setting& s) { o.threshold = s.optional_number_from_zero(); }},
      {"restore_probability",
       [](Options& o, const Setting& s) { o.restore_probability = s.number_where(is_share, "a number from 0 to 1"); }},
      {"recovery_factor",
       [](Options& o, const Setting& s) {
         o.recovery_factor = s.optional_number_where([](double v) { return v > 1; }, "a number above 1, or None");
       }},
  };
  return all;
}

/// An option that says more about the choice that another makes, and that no other choice uses.
struct Refinement {
  std::string_view name;
  std::string_view takers;
  bool (*is_idle)(const Options&);
  std::string (*choice)(const Options&);
};

std::string optimizer_of(const Options& o) { return c10::str("optimizer_name is '", to_string(o.optimizer_name), "'"); }

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
       [](const Options& o) { return c10::str("anchor is '", name_of(o.anchor, anchor_names), "'"); }},
      {"norm_prior", "norm_statistics='blend'",
       [](const Options& o) { return o.normalization.prior && o.normalization.statistics != NormStatistics::blend; },
       [](const Options& o) {
         return c10::str("norm_statistics is '", name_of(o.normalization.statistics, statistics_names), "'");
       }},
      {"chunk_size", "per_sample=True", [](const Options& o) { return o.chunk_size && !o.per_sample; },
       [](const Options&) { return std::string("per_sample is False"); }},
      {"patience", "a tolerance", [](const Options& o) { return o.patience && !o.tolerance; },
       [](const Options&) { return std::string("tolerance is None"); }},
  };
  return all;
}

}  // namespace

void Options::set(std::string_view name, const OptionValue& value) {
  for (const auto& [known, setter] : setters()) {
    if (known == name) return setter(*this, Setting{name, value});
  }
  std::vector<std::string_view> names;
  for (const auto& [known, setter] : setters()) names.push_back(known);
  TORCH_CHECK_VALUE(
      false, "no option is called '", name, "'; did you mean '", likely_option(name, names), "'? The options are ",
      detail::join(names));
}

std::vector<std::pair<std::string, OptionValue>> Options::values() const {
  std::vector<std::pair<std::string, OptionValue>> set = {
      {"optimizer_name", value_of(optimizer_name, optimizer_names)},
      {"num_steps", num_steps},
      {"lr", lr},
      {"copy_model", copy_model},
      {"per_sample", per_sample},
      {"cuda_graphs", std::string(graphs_names[cuda_graphs ? 1 : 0])},
      {"parameters", parameters},
      {"anchor", value_of(anchor, anchor_names)},
      {"norm_statistics", value_of(normalization.statistics, statistics_names)},
      {"prediction", value_of(prediction, prediction_names)},
      {"restore_probability", restore_probability},
  };
  if (betas) set.emplace_back("betas", std::vector<double>{betas->first, betas->second});
  if (eps) set.emplace_back("eps", *eps);
  if (weight_decay) set.emplace_back("weight_decay", *weight_decay);
  if (momentum) set.emplace_back("momentum", *momentum);
  if (max_grad_norm) set.emplace_back("max_grad_norm", *max_grad_norm);
  if (ema_decay) set.emplace_back("ema_decay", *ema_decay);
  if (normalization.prior) set.emplace_back("norm_prior", *normalization.prior);
  if (tolerance) set.emplace_back("tolerance", *tolerance);
  if (amp) set.emplace_back("amp", value_of(*amp));
  if (chunk_size) set.emplace_back("chunk_size", *chunk_size);
  if (patience) set.emplace_back("patience", *patience);
  if (threshold) set.emplace_back("threshold", *threshold);
  if (recovery_factor) set.emplace_back("recovery_factor", *recovery_factor);
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

void Options::override_with(const std::vector<std::pair<std::string, OptionValue>>& others) {
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

std::string_view to_string(OptimizerKind name) { return name_of(name, optimizer_names); }

}  // namespace it3
