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

SharedModelLock::Hold::Hold(std::shared_ptr<SharedModelLock> lock, Use use) : lock_(std::move(lock)), use_(use) {
  if (lock_->mutex_.try_lock(use_)) return;
  // Whoever has it may need the GIL to come to its end.
  std::optional<py::gil_scoped_release> no_gil;
  if (PyGILState_Check() == 1) no_gil.emplace();
  lock_->mutex_.lock(use_);
}

SharedModelLock::Hold::~Hold() { lock_->mutex_.unlock(use_); }

}  // namespace it3::python
