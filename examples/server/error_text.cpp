#include "error_text.h"

#include <c10/util/Exception.h>

namespace serving {

std::string error_text(const std::exception& error) {
  const auto* const of_torch = dynamic_cast<const c10::Error*>(&error);
  std::string text = of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
  const bool is_of_script = text.find("in the TorchScript interpreter") != std::string::npos;
  text.erase(text.find_last_not_of(" \n") + 1);
  if (is_of_script) {
    const auto last = text.rfind('\n');
    if (last != std::string::npos) text.erase(0, last + 1);
  } else {
    text.erase(0, text.find_first_not_of('\n'));
    text.resize(std::min(text.find('\n'), text.size()));
  }
  return text.empty() ? "an error without words" : text;
}

}  // namespace serving
