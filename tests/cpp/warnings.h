#pragma once

#include <string>
#include <vector>

#include <c10/util/Exception.h>

namespace it3::test {

/// Collects what is warned of while it lives, also what is said only once a process.
class Warnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { texts_.push_back(warning.msg()); }
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  std::vector<std::string> texts_;
  c10::WarningUtils::WarningHandlerGuard guard_{this};
  c10::WarningUtils::WarnAlways always_{true};
};

}  // namespace it3::test
