#pragma once

#include <condition_variable>
#include <map>
#include <thread>
#include <vector>

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

  /// Waits until it is free. A thread that has no such mutex, and wants to read, lets those pass that want it alone.
  ///
  /// Raises c10::Error where the thread would wait for ever, because those that it waits for wait, through any number
  /// of mutexes and threads, for one that it has. Only calls on a model from inside of another call come to that, as by
  /// a distance that adapts, and only in several threads at once.
  void lock(Use use);

  /// Gives back what this thread has taken.
  void unlock(Use use);

  /// Whether this thread has it, for whatever use.
  bool is_held() const;

 private:
  struct Uses {
    int reading = 0, updating = 0, alone = 0;
    int& of(Use use);
  };

  /// The threads that keep another one from this use, as they have the mutex for one that does not go with it.
  std::vector<std::thread::id> in_the_way_of(std::thread::id thread, Use use) const;
  bool is_free(Use use) const;
  void take(Use use);
  static bool would_wait_for_ever(std::thread::id thread);

  std::condition_variable changed_;
  std::map<std::thread::id, Uses> threads_;  // that have it, and how often
  int waiting_ = 0;                          // threads that want it alone
};

}  // namespace it3
