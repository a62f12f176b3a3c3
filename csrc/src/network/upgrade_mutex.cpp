#include <it3/backend/upgrade_mutex.h>

#include <algorithm>

namespace it3 {

int& UpgradeMutex::Uses::of(Use use) {
  if (use == Use::alone) return alone;
  return use == Use::updating ? updating : reading;
}

bool UpgradeMutex::is_free(Use use) const {
  const auto self = std::this_thread::get_id();
  const auto none_of_others = [&](bool (*has_it)(const Uses&)) {
    return std::none_of(threads_.begin(), threads_.end(), [&](const auto& thread) {
      return thread.first != self && has_it(thread.second);
    });
  };
  if (use == Use::alone) return none_of_others([](const Uses&) { return true; });
  if (!none_of_others([](const Uses& uses) { return uses.alone > 0; })) return false;
  if (threads_.contains(self)) {
    return use == Use::reading || none_of_others([](const Uses& uses) { return uses.updating > 0; });
  }
  if (waiting_ > 0) return false;
  return use == Use::reading || none_of_others([](const Uses& uses) { return uses.updating > 0; });
}

bool UpgradeMutex::try_lock(Use use) {
  const std::scoped_lock guard(mutex_);
  if (!is_free(use)) return false;
  ++threads_[std::this_thread::get_id()].of(use);
  return true;
}

void UpgradeMutex::lock(Use use) {
  std::unique_lock guard(mutex_);
  if (use == Use::alone) ++waiting_;
  changed_.wait(guard, [&] { return is_free(use); });
  if (use == Use::alone) --waiting_;
  ++threads_[std::this_thread::get_id()].of(use);
}

void UpgradeMutex::unlock(Use use) {
  {
    const std::scoped_lock guard(mutex_);
    const auto own = threads_.find(std::this_thread::get_id());
    --own->second.of(use);
    const bool has_any = own->second.reading > 0 || own->second.updating > 0 || own->second.alone > 0;
    if (!has_any) threads_.erase(own);
  }
  changed_.notify_all();
}

}  // namespace it3
