#include "npy_header.h"

#include <algorithm>
#include <charconv>
#include <set>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

namespace it3::apps {
namespace {

/// Reads a text from its begin to its end.
class Scanner {
 public:
  explicit Scanner(std::string_view rest) : rest_(rest) {}

  /// Takes a mark, if it is next.
  bool take(std::string_view mark) {
    skip_spaces();
    if (!rest_.starts_with(mark)) return false;
    rest_.remove_prefix(mark.size());
    return true;
  }

  void expect(std::string_view mark) { check(take(mark)); }

  std::string string() {
    const char quote = take("'") ? '\'' : '"';
    if (quote == '"') expect("\"");
    const auto end = rest_.find(quote);
    check(end != std::string_view::npos);
    return take_front(end, 1);
  }

  std::int64_t number() {
    skip_spaces();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    check(error == std::errc{} && value >= 0);
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    take("L");  // of Python 2
    return value;
  }

  /// A list, as the elements of a structured array are: "[", as nothing in it matters.
  std::string list() {
    const auto end = rest_.rfind(']');
    check(end != std::string_view::npos);
    take_front(end, 1);
    return "[";
  }

  bool is_at_end() {
    skip_spaces();
    return rest_.empty();
  }

  static void check(bool is_good) { TORCH_CHECK_VALUE(is_good, "its header is damaged"); }

 private:
  std::string take_front(std::size_t size, std::size_t behind) {
    std::string front(rest_.substr(0, size));
    rest_.remove_prefix(size + behind);
    return front;
  }
  void skip_spaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n"), rest_.size())); }

  std::string_view rest_;
};

}  // namespace

NpyHeader parse_npy_header(std::string_view text) {
  Scanner scanner(text);
  NpyHeader header;
  std::set<std::string> keys;
  scanner.expect("{");
  while (!scanner.take("}")) {
    const std::string key = scanner.string();
    scanner.expect(":");
    if (key == "descr") {
      header.descr = scanner.take("[") ? scanner.list() : scanner.string();
    } else if (key == "fortran_order") {
      header.is_fortran = scanner.take("True");
      if (!header.is_fortran) scanner.expect("False");
    } else {
      Scanner::check(key == "shape");
      scanner.expect("(");
      while (!scanner.take(")")) {
        header.shape.push_back(scanner.number());
        if (!scanner.take(",")) {
          scanner.expect(")");
          break;
        }
      }
    }
    Scanner::check(keys.insert(key).second);
    if (!scanner.take(",")) {
      scanner.expect("}");
      break;
    }
  }
  Scanner::check(keys.size() == 3 && scanner.is_at_end());
  return header;
}

std::string to_text(const NpyHeader& header) {
  std::string shape;
  for (const std::int64_t size : header.shape) shape += c10::str(shape.empty() ? "" : ", ", size);
  if (header.shape.size() == 1) shape += ',';
  return c10::str(
      "{'descr': '", header.descr, "', 'fortran_order': ", header.is_fortran ? "True" : "False", ", 'shape': (", shape,
      "), }");
}

}  // namespace it3::apps
