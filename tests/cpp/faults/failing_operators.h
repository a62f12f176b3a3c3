#pragma once

#include <cstdint>
#include <set>
#include <string>

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace it3::test {

/// While one lives, this thread's n-th call of an operator, or each from the n-th on, raises c10::Error. Operators that
/// other operators call count too, and those of backward passes.
class FailingOperators {
 public:
  /// @param n  from 1; 0 for none, to count them
  explicit FailingOperators(std::int64_t n, bool lasts = false);
  ~FailingOperators();
  FailingOperators(const FailingOperators&) = delete;
  FailingOperators& operator=(const FailingOperators&) = delete;

  /// How many have been called, or would have been.
  std::int64_t count() const { return count_; }
  bool has_failed() const { return n_ > 0 && count_ >= n_; }
  /// Which one raised first.
  const std::string& failed() const { return failed_; }
  /// All that were called.
  const std::set<std::string>& names() const { return names_; }

  static void called(const c10::OperatorHandle& op);

 private:
  std::int64_t n_;
  bool lasts_;
  std::int64_t count_ = 0;
  std::string failed_;
  std::set<std::string> names_;
  FailingOperators* outer_;
  c10::impl::IncludeDispatchKeyGuard on_{c10::DispatchKey::TESTING_ONLY_GenericMode};
};

}  // namespace it3::test
