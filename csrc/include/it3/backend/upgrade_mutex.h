#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include <it3/backend/export.h>

namespace it3 {

/// A mutex for what many threads may read at once. A thread that has it may take it again, for another use too.
class IT3_API UpgradeMutex {
 public:
  enum class Use {
    reading,   ///< beside others that read, and one that keeps
    updating,  ///< reads beside others that read, but no other thread updates: it will write, alone, at the end
    alone,     ///< beside nobody
  };

  /// Whether it was free for this use, and has been taken.
  bool try_lock(Use use);

  /// Waits until it is free. Threads that want to read let those pass that wait to be alone.
  void lock(Use use);

  /// Gives back what this thread has taken.
  void unlock(Use use);

 private:
  struct Uses {
    int reading = 0, updating = 0, alone = 0;
    int& of(Use use);
  };

  bool is_free(Use use) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::thread::id, Uses> threads_;  // that have it, and how often
  int waiting_ = 0;                          // threads that want to be alone
};

}  // namespace it3
