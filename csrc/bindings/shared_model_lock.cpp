#include "shared_model_lock.h"

#include <optional>
#include <unordered_map>

namespace it3::python {

std::shared_ptr<SharedModelLock> SharedModelLock::of(const py::object& model) {
  // The GIL guards it. Who has a lock has the model too, so that no other one can come to its address meanwhile.
  static auto& locks = *new std::unordered_map<PyObject*, std::weak_ptr<SharedModelLock>>();
  if (auto known = locks[model.ptr()].lock()) return known;
  std::erase_if(locks, [](const auto& item) { return item.second.expired(); });
  auto lock = std::make_shared<SharedModelLock>();
  locks[model.ptr()] = lock;
  return lock;
}

bool SharedModelLock::is_free(Use use, std::thread::id thread) const {
  if (depth_ > 0) return owner_ == thread;
  const bool reads = readers_.contains(thread);
  if (use == Use::reading) return reads || waiting_ == 0;
  return readers_.size() == (reads ? 1 : 0);
}

void SharedModelLock::enter(Use use, std::thread::id thread) {
  if (use == Use::reading) {
    ++readers_[thread];
  } else {
    owner_ = thread;
    ++depth_;
  }
}

SharedModelLock::Hold::Hold(std::shared_ptr<SharedModelLock> lock, Use use) : lock_(std::move(lock)), use_(use) {
  const auto thread = std::this_thread::get_id();
  {
    const std::scoped_lock guard(lock_->mutex_);
    if (lock_->is_free(use_, thread)) {
      lock_->enter(use_, thread);
      return;
    }
  }
  // Whoever has it may need the GIL to come to its end.
  std::optional<py::gil_scoped_release> no_gil;
  if (PyGILState_Check() == 1) no_gil.emplace();
  std::unique_lock guard(lock_->mutex_);
  if (use_ == Use::alone) ++lock_->waiting_;
  lock_->changed_.wait(guard, [&] { return lock_->is_free(use_, thread); });
  if (use_ == Use::alone) --lock_->waiting_;
  lock_->enter(use_, thread);
  guard.unlock();  // before the GIL is waited for
}

SharedModelLock::Hold::~Hold() {
  {
    const std::scoped_lock guard(lock_->mutex_);
    if (use_ == Use::alone) {
      --lock_->depth_;
    } else if (const auto reader = lock_->readers_.find(std::this_thread::get_id()); --reader->second == 0) {
      lock_->readers_.erase(reader);
    }
  }
  lock_->changed_.notify_all();
}

}  // namespace it3::python
