#pragma once

#include <exception>
#include <string>
#include <string_view>

#include <c10/util/Exception.h>

#include <it3/error_text.h>

namespace it3::detail {

/// An error's text without the calls in TorchScript's code that led to it, "RuntimeError: ..." being its last part.
inline std::string without_script_traceback(std::string_view text) {
  constexpr std::string_view header = "The following operation failed in the TorchScript interpreter.";
  const auto begin = text.find(header);
  if (begin == std::string_view::npos) return std::string(text);
  // The lines of the traceback are indented, or begin with "Traceback", or are the code's own.
  for (auto line = text.find('\n', begin); line != std::string_view::npos; line = text.find('\n', line + 1)) {
    const std::string_view rest = text.substr(line + 1);
    const auto colon = rest.find(": ");
    if (colon == std::string_view::npos) break;
    const std::string_view name = rest.substr(0, colon);
    const bool is_name = name.find_first_of(" \n<>(") == std::string_view::npos;
    const bool is_error = name.ends_with("Error") || name.ends_with("Exception") || name.ends_with("Warning");
    if (!is_name || !is_error) continue;
    std::string_view message = rest.substr(colon + 2);
    message = message.substr(0, message.find_last_not_of('\n') + 1);
    const std::string told = without_script_traceback(message);  // an interpreter can run in another one
    const bool is_plain = name == "RuntimeError" || name.ends_with(".Error");
    return is_plain ? told : std::string(name) + ": " + told;
  }
  return std::string(text);
}

/// What an error says, without the calls that led to it.
inline std::string text_of(const std::exception& error) {
  const auto* const of_torch = dynamic_cast<const c10::Error*>(&error);
  return without_script_traceback(of_torch != nullptr ? of_torch->what_without_backtrace() : error.what());
}

/// Whether memory was short. TorchScript's interpreter makes other errors of what it catches, with the text in them.
inline bool is_out_of_memory(std::string_view text) {
  return text.find("out of memory") != std::string::npos || text.find("can't allocate memory") != std::string::npos;
}
inline bool is_out_of_memory(const std::exception& error) { return is_out_of_memory(text_of(error)); }

}  // namespace it3::detail
