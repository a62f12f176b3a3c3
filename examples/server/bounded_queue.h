#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

namespace serving {

/// A queue of at most `capacity` items between threads, which never waits for room: what does not fit is refused.
template <typename Item>
class BoundedQueue {
 public:
  using Clock = std::chrono::steady_clock;

  explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) {}

  /// False, and the item is not taken, if the queue is full or closed.
  bool push(Item item) {
    {
      const std::lock_guard lock(mutex_);
      if (is_closed_ || items_.size() >= capacity_) return false;
      items_.push_back(std::move(item));
    }
    arrived_.notify_all();  // one of those that wait may want no item like this one
    return true;
  }

  /// The oldest item, for which it waits. Nothing once the queue is closed and empty.
  std::optional<Item> pop() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return is_closed_ || !items_.empty(); });
    if (items_.empty()) return std::nullopt;
    return take(items_.begin());
  }

  /// The oldest item that is wanted, for which it waits until then. Nothing if none has come, or the queue is closed.
  std::optional<Item> pop_if(const std::function<bool(const Item&)>& is_wanted, Clock::time_point until) {
    std::unique_lock lock(mutex_);
    while (true) {
      const auto found = std::find_if(items_.begin(), items_.end(), is_wanted);
      if (found != items_.end()) return take(found);
      if (is_closed_ || Clock::now() >= until) return std::nullopt;
      arrived_.wait_until(lock, until);
    }
  }

  /// Takes an item out again. False if it is not there any more.
  bool remove(const Item& item) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find(items_.begin(), items_.end(), item);
    if (found == items_.end()) return false;
    items_.erase(found);
    return true;
  }

  /// From now on nothing is taken in; what is in it still comes out.
  void close() {
    {
      const std::lock_guard lock(mutex_);
      is_closed_ = true;
    }
    arrived_.notify_all();
  }

  std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return items_.size();
  }

  bool is_full() const { return size() >= capacity_; }

 private:
  Item take(typename std::deque<Item>::iterator place) {
    Item item = std::move(*place);
    items_.erase(place);
    return item;
  }

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Item> items_;
  std::size_t capacity_;
  bool is_closed_ = false;
};

}  // namespace serving
