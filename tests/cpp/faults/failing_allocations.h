#pragma once

#include <cstdint>

namespace it3::test {

/// Counts what this thread does while one lives, and tells which of it is to fail.
class FailingAllocations {
 public:
  /// @param n  from 1; 0 for none, to count them
  /// @param lasts  whether all fail from the n-th on
  explicit FailingAllocations(std::int64_t n, bool lasts = false) : n_(n), lasts_(lasts) {}

  /// Whether this one, which counts, fails.
  bool fails_now() {
    ++count_;
    return n_ > 0 && (lasts_ ? count_ >= n_ : count_ == n_);
  }
  std::int64_t count() const { return count_; }
  bool has_failed() const { return n_ > 0 && count_ >= n_; }

 private:
  std::int64_t n_;
  bool lasts_;
  std::int64_t count_ = 0;
};

/// Allocations of tensors' memory on the CPU raise what torch's own allocator does.
class FailingTensorMemory : public FailingAllocations {
 public:
  explicit FailingTensorMemory(std::int64_t n, bool lasts = false);
  ~FailingTensorMemory();
  FailingTensorMemory(const FailingTensorMemory&) = delete;
  FailingTensorMemory& operator=(const FailingTensorMemory&) = delete;
};

/// The operators new raise std::bad_alloc.
class FailingNew : public FailingAllocations {
 public:
  explicit FailingNew(std::int64_t n, bool lasts = false);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
};

}  // namespace it3::test
