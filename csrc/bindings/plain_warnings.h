#pragma once

#include <string_view>

#include <c10/util/Exception.h>

namespace it3::python {

/// Takes from it3's own warnings, while it lives, where in its source they come from. Python then has the message
/// alone: torch's handler, to which they go on, would end it by a path on the machine that built it3, which tells a
/// user nothing. Warnings of torch's stay as they are.
class PlainWarnings : public c10::WarningHandler {
 public:
  PlainWarnings() : outer_(c10::WarningUtils::get_warning_handler()), guard_(this) {}

  void process(const c10::Warning& warning) override {
    c10::SourceLocation place = warning.source_location();
    if (place.file != nullptr && std::string_view(place.file).starts_with(folder())) place.file = nullptr;
    outer_->process(c10::Warning(warning.type(), place, warning.msg(), warning.verbatim()));
  }

 private:
  /// Of it3's C++ sources, as compilers name it.
  static constexpr std::string_view folder() {
    constexpr std::string_view here = __FILE__, name = "bindings/plain_warnings.h";
    static_assert(here.ends_with(name));
    return here.substr(0, here.size() - name.size());
  }

  c10::WarningHandler* const outer_;
  const c10::WarningUtils::WarningHandlerGuard guard_;
};

}  // namespace it3::python
