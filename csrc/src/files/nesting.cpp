#include "files/nesting.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

namespace it3::detail {
namespace {

/// Goes through a pickle (Python's pickletools.py documents its operations) as a reader does, with how deep each value
/// is in place of the values.
class PickleWalk {
 public:
  explicit PickleWalk(std::string_view pickle) : rest_(pickle) {}

  void run() {
    for (;;) {
      const char operation = take(1).front();
      if (operation == '.') break;
      step(static_cast<unsigned char>(operation));
    }
    check(stack_.size() == 1 && marks_.empty());
  }

 private:
  static constexpr int deepest = 1000;
  static constexpr std::uint64_t most_values = 10'000'000;
  static constexpr std::size_t constant = 0;  // the value that stands for all numbers, strings and the like

  struct Value {
    int depth = 0;
    std::uint64_t values = 1;  // in it, one that is held twice counted twice, as who goes through them does
    bool is_within_another = false;
  };

  static void check(bool is_good) { TORCH_CHECK_VALUE(is_good, "a pickle in it is damaged"); }

  void step(unsigned char operation) {
    switch (operation) {
      case 0x80: take(1); break;                         // PROTO
      case 0x95: take(8); break;                         // FRAME
      case '(': marks_.push_back(stack_.size()); break;  // MARK
      case 'N':
      case 0x88:
      case 0x89:
      case ')': push(constant); break;           // NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE
      case 'K': take(1), push(constant); break;  // BININT1
      case 'M': take(2), push(constant); break;  // BININT2
      case 'J': take(4), push(constant); break;  // BININT
      case 'G': take(8), push(constant); break;  // BINFLOAT
      case 0x8A:
      case 'U': take(number(1)), push(constant); break;  // LONG1, SHORT_BINSTRING
      case 'T':
      case 'X': take(number(4)), push(constant); break;           // BINSTRING, BINUNICODE
      case 0x8D: take(number(8)), push(constant); break;          // BINUNICODE8
      case 'c': take_line(), take_line(), push(constant); break;  // GLOBAL
      case ']':
      case '}': push(made()); break;  // EMPTY_LIST, EMPTY_DICT
      case 't':
      case 'l':
      case 'd': push(made(pop_to_mark())); break;  // TUPLE, LIST, DICT
      case 0x85: push(made(pop(1))); break;        // TUPLE1
      case 0x86: push(made(pop(2))); break;        // TUPLE2
      case 0x87: push(made(pop(3))); break;        // TUPLE3
      case 'e':
      case 'u': add(pop_to_mark()); break;  // APPENDS, SETITEMS
      case 'a':
      case 'b': add(pop(1)); break;  // APPEND, BUILD
      case 's': add(pop(2)); break;  // SETITEM
      case 'R':
      case 0x81: push(made(pop(2))); break;     // REDUCE, NEWOBJ
      case 'Q': pop(1), push(constant); break;  // BINPERSID
      case 'q': put(number(1)); break;          // BINPUT
      case 'r': put(number(4)); break;          // LONG_BINPUT
      case 'h': push(got(number(1))); break;    // BINGET
      case 'j': push(got(number(4))); break;    // LONG_BINGET
      default:
        TORCH_CHECK_VALUE(false, "a pickle in it has the operation ", int{operation}, ", which torch does not read");
    }
  }

  std::string_view take(std::uint64_t size) {
    check(size <= rest_.size());
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  void take_line() {
    const auto end = rest_.find('\n');
    check(end != std::string_view::npos);
    take(end + 1);
  }
  /// Little-endian.
  std::uint64_t number(std::size_t width) {
    const std::string_view bytes = take(width);
    std::uint64_t value = 0;
    for (std::size_t i = width; i > 0; --i) value = value << 8U | static_cast<unsigned char>(bytes[i - 1]);
    return value;
  }

  void push(std::size_t value) { stack_.push_back(value); }

  std::vector<std::size_t> pop(std::size_t count) {
    check(stack_.size() >= count + (marks_.empty() ? 0 : marks_.back()));
    std::vector<std::size_t> popped(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return popped;
  }
  std::vector<std::size_t> pop_to_mark() {
    check(!marks_.empty() && marks_.back() <= stack_.size());
    const std::size_t mark = marks_.back();
    marks_.pop_back();
    std::vector<std::size_t> popped(stack_.begin() + static_cast<std::ptrdiff_t>(mark), stack_.end());
    stack_.resize(mark);
    return popped;
  }

  /// A new value around others.
  std::size_t made(const std::vector<std::size_t>& parts = {}) {
    values_.emplace_back();
    put_into(values_.size() - 1, parts);
    return values_.size() - 1;
  }
  /// More for the value on top, which must not be within another one yet: then no value gets into itself.
  void add(const std::vector<std::size_t>& parts) {
    check(!stack_.empty());
    if (stack_.back() == constant) return check(parts.empty() || is_constant(parts));
    TORCH_CHECK_VALUE(!values_[stack_.back()].is_within_another, "a pickle in it has a value within itself");
    put_into(stack_.back(), parts);
  }
  static bool is_constant(const std::vector<std::size_t>& parts) {
    return std::all_of(parts.begin(), parts.end(), [](std::size_t part) { return part == constant; });
  }
  void put_into(std::size_t value, const std::vector<std::size_t>& parts) {
    for (const std::size_t part : parts) {
      TORCH_CHECK_VALUE(part != value || part == constant, "a pickle in it has a value within itself");
      values_[part].is_within_another = true;
      values_[value].depth = std::max(values_[value].depth, values_[part].depth + 1);
      values_[value].values = std::min(values_[value].values + values_[part].values, most_values + 1);
    }
    TORCH_CHECK_VALUE(
        values_[value].values <= most_values, "a pickle in it unpacks to more than ", most_values, " values");
    TORCH_CHECK_VALUE(values_[value].depth <= deepest, "a pickle in it is nested more than ", deepest, " deep");
  }

  void put(std::uint64_t index) {
    check(!stack_.empty() && index <= memo_.size());  // picklers count on
    if (index == memo_.size()) memo_.emplace_back();
    memo_[index] = stack_.back();
  }
  std::size_t got(std::uint64_t index) const {
    check(index < memo_.size());
    return memo_[index];
  }

  std::string_view rest_;
  std::vector<Value> values_ = {Value()};
  std::vector<std::size_t> stack_, marks_, memo_;
};

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

}  // namespace

void check_pickle(std::string_view pickle) { PickleWalk(pickle).run(); }

void check_code(std::string_view code) {
  constexpr std::size_t most_operators = 5000, most_indented = 400;  // two spaces a block
  std::vector<std::size_t> operators = {0};  // since the last comma, in each bracket that is open
  std::size_t total = 0;                     // their sum: how deep an expression can be here
  while (!code.empty()) {
    const std::string_view line = code.substr(0, code.find('\n'));
    code.remove_prefix(std::min(line.size() + 1, code.size()));
    const std::size_t indented = std::min(line.find_first_not_of(' '), line.size());
    const bool is_statement = operators.size() == 1;
    TORCH_CHECK_VALUE(
        !is_statement || indented <= most_indented, "code in it is nested more than ", most_indented / 2, " deep");
    const auto forget = [&] { total -= std::exchange(operators.back(), 0); };
    if (is_statement) forget();
    char before = ' ', quote = '\0';
    for (std::size_t i = indented; i < line.size(); ++i) {
      const char c = line[i];
      const bool was_word = is_word(before);
      before = c;
      if (quote != '\0') {
        if (c == '\\') ++i;
        if (c == quote) quote = '\0';
        continue;
      }
      if (c == '#') break;
      if (c == '"' || c == '\'') quote = c;
      if (c == ',') forget();
      if ((c == ')' || c == ']' || c == '}') && operators.size() > 1) {
        forget();
        operators.pop_back();
      }
      // Brackets, dots and signs; words such as `not` and `if` have a space behind them.
      const bool is_operator = c == ' ' ? was_word : !is_word(c) && c != ',';
      if (!is_operator) continue;
      ++operators.back();
      TORCH_CHECK_VALUE(
          ++total <= most_operators, "code in it has an expression of more than ", most_operators, " operators");
      if (c == '(' || c == '[' || c == '{') operators.push_back(0);
    }
  }
}

}  // namespace it3::detail
