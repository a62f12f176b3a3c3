#pragma once

#include <memory>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/upgrade_mutex.h>

namespace it3::python {

/// Who may use an eager model: many threads that only read it, or one that swaps in other weights, modes and hooks. All
/// engines around a model share one lock. A thread may take it again, in either way.
class SharedModelLock {
 public:
  using Use = UpgradeMutex::Use;

  /// The lock of a model; it is kept as long as somebody has it. Needs the GIL.
  static std::shared_ptr<SharedModelLock> of(const py::object& model);

  /// Has the lock while it lives, which must end in the same thread. It waits without the GIL.
  class Hold {
   public:
    Hold(std::shared_ptr<SharedModelLock> lock, Use use);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    std::shared_ptr<SharedModelLock> lock_;
    Use use_;
  };

 private:
  UpgradeMutex mutex_;
};

}  // namespace it3::python
