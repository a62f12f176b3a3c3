#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <httplib.h>

namespace serving {

/// A thread for each of `limit` connections, and a few for those above, which are told so and closed. A pool of threads
/// alone would let a connection too many wait without a word.
class Connections : public httplib::TaskQueue {
 public:
  /// Raises c10::Error if there cannot be so many threads.
  explicit Connections(std::size_t limit);

  void enqueue(std::function<void()> connection) override;
  void shutdown() override;

  /// Whether the calling thread serves a connection above the limit.
  static bool is_above_limit();

 private:
  /// Connections that wait for a thread, which is never long.
  struct Lane {
    std::deque<std::function<void()>> waiting = {};
    std::condition_variable arrived = {};
  };

  void serve(Lane& lane);

  std::mutex mutex_;
  Lane within_, above_;
  std::size_t limit_, open_ = 0;  // connections within the limit
  bool is_shut_down_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace serving
