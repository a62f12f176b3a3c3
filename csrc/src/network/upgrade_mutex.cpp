#include <it3/backend/upgrade_mutex.h>

#include <algorithm>

#include <c10/util/Exception.h>

namespace it3 {

int& UpgradeMutex::Uses::of(Use use) {
  if (use == Use::alone) return alone;
  return use == Use::updating ? updating : reading;
}

bool UpgradeMutex::any_other(bool (*has_it)(const Uses&)) const {
  return std::any_of(threads_.begin(), threads_.end(), [&](const auto& thread) {
    return thread.first != std::this_thread::get_id() && has_it(thread.second);
  });
}

bool UpgradeMutex::is_free(Use use) const {
  if (use == Use::alone) return !any_other([](const Uses&) { return true; });
  if (any_other([](const Uses& uses) { return uses.alone > 0; })) return false;
  const bool is_updated = any_other([](const Uses& uses) { return uses.updating > 0; });
  if (use == Use::updating && is_updated) return false;
  return waiting_ == 0 || is_updated || threads_.contains(std::this_thread::get_id());
}

bool UpgradeMutex::try_lock(Use use) {
  const std::scoped_lock guard(mutex_);
  if (!is_free(use)) return false;
  ++threads_[std::this_thread::get_id()].of(use);
  return true;
}

void UpgradeMutex::lock(Use use) {
  std::unique_lock guard(mutex_);
  if (!is_free(use)) {
    const auto own = threads_.find(std::this_thread::get_id());
    const bool has_it = own != threads_.end();
    const bool only_reads = has_it && own->second.updating == 0 && own->second.alone == 0;
    const bool is_updated = any_other([](const Uses& uses) { return uses.updating > 0; });
    TORCH_CHECK(
        !has_it || (waiting_owners_ == 0 && !(only_reads && is_updated)),
        "two threads call engines on one model, one of them from inside of another call on it, so that they would wait "
        "for each other for ever; make such calls from one thread at a time");
    waiting_ += use == Use::alone ? 1 : 0;
    waiting_owners_ += has_it ? 1 : 0;
    changed_.wait(guard, [&] { return is_free(use); });
    waiting_ -= use == Use::alone ? 1 : 0;
    waiting_owners_ -= has_it ? 1 : 0;
  }
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
