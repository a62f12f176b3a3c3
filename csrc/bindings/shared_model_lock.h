#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// Who may use an eager model: many threads that only read it, or one that swaps in other weights, modes and hooks. All
/// engines around a model share one lock. A thread may take it again, in either way.
class SharedModelLock {
 public:
  /// The lock of a model; it is kept as long as somebody has it. Needs the GIL.
  static std::shared_ptr<SharedModelLock> of(const py::object& model);

  enum class Use { reading, alone };

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
  bool is_free(Use use, std::thread::id thread) const;
  void enter(Use use, std::thread::id thread);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread::id owner_;
  int depth_ = 0;                           // how often the owner has taken it
  std::map<std::thread::id, int> readers_;  // and each reader
  int waiting_ = 0;                         // threads that want it alone, which new readers let pass
};

}  // namespace it3::python
