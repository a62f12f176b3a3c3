#include <it3/options.h>

#include <array>
#include <cmath>
#include <functional>
#include <sstream>

#include <c10/util/Exception.h>

#include "nearest_name.h"

namespace it3 {
namespace {

constexpr std::array<std::string_view, 5> optimizer_names = {"adam", "adamw", "sgd", "rmsprop", "adagrad"};

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
  if (const auto* v = std::get_if<double>(&value)) text << *v;
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

  double number_from_zero() const {
    constexpr std::string_view accepted = "a number, 0 or more";
    const double v = number(accepted);
    check(std::isfinite(v) && v >= 0, accepted);
    return v;
  }

  /// Nothing for None.
  std::optional<double> optional_number_from_zero() const {
    if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
    return number_from_zero();
  }
};

void set_optimizer_name(Options& options, const Setting& setting) {
  const std::string accepted = "one of " + detail::join(optimizer_names);
  const auto* name = std::get_if<std::string>(&setting.value);
  if (name == nullptr) setting.wrong_type(accepted);
  const auto found = std::find(optimizer_names.begin(), optimizer_names.end(), *name);
  setting.check(found != optimizer_names.end(), accepted);
  options.optimizer_name = static_cast<OptimizerName>(found - optimizer_names.begin());
}

void set_num_steps(Options& options, const Setting& setting) {
  constexpr std::string_view accepted = "a whole number, 0 or more";
  const auto* steps = std::get_if<std::int64_t>(&setting.value);
  if (steps == nullptr) setting.wrong_type(accepted);
  setting.check(*steps >= 0, accepted);
  options.num_steps = *steps;
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

void set_copy_model(Options& options, const Setting& setting) {
  const auto* copy = std::get_if<bool>(&setting.value);
  if (copy == nullptr) setting.wrong_type("True or False");
  options.copy_model = *copy;
}

void set_max_grad_norm(Options& options, const Setting& setting) {
  constexpr std::string_view accepted = "a number above 0, or None";
  if (std::holds_alternative<std::monostate>(setting.value)) {
    options.max_grad_norm.reset();
    return;
  }
  const double norm = setting.number(accepted);
  setting.check(norm > 0, accepted);  // infinity is no limit
  options.max_grad_norm = norm;
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

const std::array<std::pair<std::string_view, Setter>, 10>& setters() {
  static const std::array<std::pair<std::string_view, Setter>, 10> all = {{
      {"optimizer_name", set_optimizer_name},
      {"num_steps", set_num_steps},
      {"lr", [](Options& o, const Setting& s) { o.lr = s.number_from_zero(); }},
      {"betas", set_betas},
      {"eps", [](Options& o, const Setting& s) { o.eps = s.optional_number_from_zero(); }},
      {"weight_decay", [](Options& o, const Setting& s) { o.weight_decay = s.optional_number_from_zero(); }},
      {"momentum", [](Options& o, const Setting& s) { o.momentum = s.optional_number_from_zero(); }},
      {"copy_model", set_copy_model},
      {"max_grad_norm", set_max_grad_norm},
      {"parameters", set_parameters},
  }};
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
      false, "no option is called '", name, "'; did you mean '", detail::nearest_name(name, names),
      "'? The options are ", detail::join(names));
}

std::vector<std::pair<std::string, OptionValue>> Options::values() const {
  std::vector<std::pair<std::string, OptionValue>> set = {
      {"optimizer_name", std::string(to_string(optimizer_name))},
      {"num_steps", num_steps},
      {"lr", lr},
      {"copy_model", copy_model},
      {"parameters", parameters},
  };
  if (betas) set.emplace_back("betas", std::vector<double>{betas->first, betas->second});
  if (eps) set.emplace_back("eps", *eps);
  if (weight_decay) set.emplace_back("weight_decay", *weight_decay);
  if (momentum) set.emplace_back("momentum", *momentum);
  if (max_grad_norm) set.emplace_back("max_grad_norm", *max_grad_norm);
  return set;
}

void Options::validate() const {
  const bool is_adam = optimizer_name == OptimizerName::adam || optimizer_name == OptimizerName::adamw;
  const bool has_momentum = optimizer_name == OptimizerName::sgd || optimizer_name == OptimizerName::rmsprop;
  const auto check = [&](bool accepted, std::string_view option, std::string_view takers) {
    TORCH_CHECK_VALUE(
        accepted, option, " is for ", takers, ", but optimizer_name is '", to_string(optimizer_name), "'; leave ",
        option, " out or choose another optimizer_name");
  };
  check(is_adam || !betas, "betas", "adam and adamw");
  check(has_momentum || !momentum, "momentum", "sgd and rmsprop");
  check(optimizer_name != OptimizerName::sgd || !eps, "eps", "adam, adamw, rmsprop and adagrad");
}

std::string_view to_string(OptimizerName name) { return optimizer_names.at(static_cast<std::size_t>(name)); }

}  // namespace it3
