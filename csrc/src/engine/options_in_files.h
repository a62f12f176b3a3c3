#pragma once

#include <string_view>

#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>

#include <it3/options.h>

namespace it3::detail {

/// Puts all options into a dictionary of a file, under their names behind a prefix.
void insert_options(const c10::impl::GenericDict& dictionary, std::string_view prefix, const Options& options);

/// Sets the options that a dictionary has under such names. Raises what Options::set() raises.
void take_options(const c10::impl::GenericDict& dictionary, std::string_view prefix, Options& options);

}  // namespace it3::detail
