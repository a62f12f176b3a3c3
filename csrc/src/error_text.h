#pragma once

#include <exception>

#include <c10/util/Exception.h>

namespace it3::detail {

/// What an error says, without the calls that led to it.
inline const char* text_of(const std::exception& error) {
  const auto* const of_torch = dynamic_cast<const c10::Error*>(&error);
  return of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
}

}  // namespace it3::detail
