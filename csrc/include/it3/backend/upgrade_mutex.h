#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include <it3/backend/export.h>

namespace it3 {

/// A readers-writer mutex that a reader can upgrade. A thread that has it may take it again, for the same use or for
/// another one.
class IT3_API UpgradeMutex {
 public:
  enum class Use {
    reading,   ///< beside others that read, and one that updates
    updating,  ///< reads beside others that read, but no other thread updates; will take it `alone` to write
    alone,     ///< beside nobody
  };

  /// Whether it was free for this use, and has been taken.
  bool try_lock(Use use);

  /// Waits until it is free. Who wants to read lets those pass that want it alone, unless a thread updates, which may
  /// wait for readers itself.
  ///
  /// Raises c10::Error where a thread that reads would have to wait for another one that updates, or that has the mutex
  /// and waits as well: these may wait for the thread in turn. Only calls on a model from inside of another call on it,
  /// as by a distance that adapts, come to that, and only in several threads at once.
  void lock(Use use);

  /// Gives back what this thread has taken.
  void unlock(Use use);

 private:
  struct Uses {
    int reading = 0, updating = 0, alone = 0;
    int& of(Use use);
  };

  bool any_other(bool (*has_it)(const Uses&)) const;
  bool is_free(Use use) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::thread::id, Uses> threads_;  // that have it, and how often
  int waiting_ = 0;                          // threads that want it alone
  int waiting_owners_ = 0;                   // threads that have it, and wait to use it otherwise
};

}  // namespace it3
