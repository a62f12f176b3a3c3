#pragma once

#include <functional>
#include <string>

#include <c10/util/Exception.h>

namespace it3::test {

/// The text of the c10::ValueError that something raises.
inline std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
  return "no c10::ValueError";
}

}  // namespace it3::test
