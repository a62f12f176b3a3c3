#pragma once

#include <functional>
#include <string>
#include <vector>

#include <it3/options.h>

namespace it3::detail {

/// All that is known of an option, and the only place where it is known.
struct Option {
  OptionInfo info;
  /// Raises c10::ValueError or c10::TypeError for values that are not accepted.
  std::function<void(Options&, const OptionValue&)> set;
  /// std::monostate where nothing is set.
  std::function<OptionValue(const Options&)> get;
};

const std::vector<Option>& option_table();

/// A value as Python writes it.
std::string to_text(const OptionValue& value);

/// The names of OptimizerKind, in its order.
const std::vector<std::string_view>& optimizer_names();

}  // namespace it3::detail
