#include "engine/options_in_files.h"

#include <string>
#include <type_traits>
#include <variant>
#include <vector>

namespace it3::detail {
namespace {

c10::IValue to_ivalue(const OptionValue& value) {
  return std::visit(
      [](const auto& v) {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
          return c10::IValue();
        } else {
          return c10::IValue(v);
        }
      },
      value);
}

OptionValue to_option(const c10::IValue& value) {
  if (value.isNone()) return std::monostate{};
  if (value.isBool()) return value.toBool();
  if (value.isInt()) return value.toInt();
  if (value.isDouble()) return value.toDouble();
  if (value.isString()) return value.toStringRef();
  if (value.isDoubleList()) return value.toDoubleVector();
  return value.to<std::vector<std::string>>();
}

}  // namespace

void insert_options(const c10::impl::GenericDict& dictionary, std::string_view prefix, const Options& options) {
  for (const auto& [name, value] : options.values()) {
    dictionary.insert(std::string(prefix) + name, to_ivalue(value));
  }
}

void take_options(const c10::impl::GenericDict& dictionary, std::string_view prefix, Options& options) {
  for (const auto& item : dictionary) {
    const std::string& key = item.key().toStringRef();
    if (key.starts_with(prefix)) options.set(key.substr(prefix.size()), to_option(item.value()));
  }
}

}  // namespace it3::detail
