#include "support/error_text.h"

#include <algorithm>

namespace it3 {

std::string error_text(const std::exception& error) {
  const std::string text = detail::text_of(error);
  const auto begin = std::min(text.find_first_not_of('\n'), text.size());
  std::string line = text.substr(begin, text.find('\n', begin) - begin);
  line.resize(line.find_last_not_of(": ") + 1);  // what the line leads to is not told
  return line.empty() ? "an error without words" : line;
}

}  // namespace it3
