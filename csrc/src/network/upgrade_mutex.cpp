#include <it3/backend/upgrade_mutex.h>

#include <mutex>
#include <set>

#include <c10/util/Exception.h>

#include "network/held_locks.h"

namespace it3 {
namespace {

struct Wait {
  const UpgradeMutex* mutex;
  UpgradeMutex::Use use;
};

/// What every thread waits for. One std::mutex guards it and the state of all UpgradeMutexes, so that a circle of waits
/// is seen whole before it closes.
struct Waits {
  std::mutex guard;
  std::map<std::thread::id, Wait> by_thread;
};

/// Never destroyed, because locks in other static objects may end after it.
Waits& waits() {
  static auto* const all = new Waits;
  return *all;
}

/// How many uses of all mutexes this thread has.
thread_local int held = 0;

}  // namespace

bool detail::holds_any_lock() { return held > 0; }

int& UpgradeMutex::Uses::of(Use use) {
  if (use == Use::alone) return alone;
  return use == Use::updating ? updating : reading;
}

std::vector<std::thread::id> UpgradeMutex::in_the_way_of(std::thread::id thread, Use use) const {
  std::vector<std::thread::id> found;
  for (const auto& [other, uses] : threads_) {
    const bool goes_with_it = use != Use::alone && uses.alone == 0 && (use == Use::reading || uses.updating == 0);
    if (other != thread && !goes_with_it) found.push_back(other);
  }
  return found;
}

bool UpgradeMutex::is_free(Use use) const {
  // Only a thread that nobody can wait for lets others pass: what it waits for then closes no circle.
  const bool lets_pass = use != Use::alone && held == 0 && waiting_ > 0;
  return !lets_pass && in_the_way_of(std::this_thread::get_id(), use).empty();
}

bool UpgradeMutex::would_wait_for_ever(std::thread::id thread) {
  std::set<std::thread::id> seen;
  std::vector<std::thread::id> to_see = {thread};
  while (!to_see.empty()) {
    const auto waits_for = waits().by_thread.find(to_see.back());
    to_see.pop_back();
    if (waits_for == waits().by_thread.end()) continue;
    const auto& [waiting, wait] = *waits_for;
    for (const auto other : wait.mutex->in_the_way_of(waiting, wait.use)) {
      if (other == thread) return true;
      if (seen.insert(other).second) to_see.push_back(other);
    }
  }
  return false;
}

void UpgradeMutex::take(Use use) {
  ++threads_[std::this_thread::get_id()].of(use);
  ++held;
}

bool UpgradeMutex::try_lock(Use use) {
  const std::scoped_lock guard(waits().guard);
  if (!is_free(use)) return false;
  take(use);
  return true;
}

void UpgradeMutex::lock(Use use) {
  std::unique_lock guard(waits().guard);
  if (!is_free(use)) {
    const auto thread = std::this_thread::get_id();
    waits().by_thread[thread] = {this, use};
    const bool is_hopeless = would_wait_for_ever(thread);
    if (!is_hopeless) {
      waiting_ += use == Use::alone ? 1 : 0;
      changed_.wait(guard, [&] { return is_free(use); });
      waiting_ -= use == Use::alone ? 1 : 0;
    }
    waits().by_thread.erase(thread);
    TORCH_CHECK(
        !is_hopeless,
        "this call and a call in another thread would wait for each other for ever, because each uses a model that the "
        "other one wants to change. This happens when an engine is called from inside of another engine's call, as by "
        "a distance that adapts: make such calls from one thread at a time");
  }
  take(use);
}

void UpgradeMutex::unlock(Use use) {
  {
    const std::scoped_lock guard(waits().guard);
    const auto own = threads_.find(std::this_thread::get_id());
    --own->second.of(use);
    --held;
    const bool has_any = own->second.reading > 0 || own->second.updating > 0 || own->second.alone > 0;
    if (!has_any) threads_.erase(own);
  }
  changed_.notify_all();
}

bool UpgradeMutex::is_held() const {
  const std::scoped_lock guard(waits().guard);
  return threads_.contains(std::this_thread::get_id());
}

}  // namespace it3
