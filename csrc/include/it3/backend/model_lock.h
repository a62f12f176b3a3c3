#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/upgrade_mutex.h>

namespace it3 {

namespace detail {
class PartMutex;
}

/// A lock on a model's own tensors and flags, which keeps threads from using them in conflicting ways; see
/// UpgradeMutex. All locks that name the same part, a tensor or a module, share a mutex for it. They therefore hold for
/// all engines around a model, and around models with a part in common.
class IT3_API ModelLock {
 public:
  /// A lock on nothing, which never waits.
  ModelLock() = default;

  /// @param tensors  parameters and buffers of the model
  /// @param parts  addresses of other things that are used, such as its modules
  explicit ModelLock(const std::vector<at::Tensor>& tensors, const std::vector<const void*>& parts = {});

  /// Holds the lock as long as it lives. It has to be destroyed in the thread that made it.
  class IT3_API Turn {
   public:
    Turn() = default;
    ~Turn();
    Turn(Turn&&) noexcept = default;
    Turn& operator=(Turn&&) = delete;

   private:
    friend class ModelLock;
    using Mutexes = std::vector<std::shared_ptr<detail::PartMutex>>;
    /// By mutexes that have been taken.
    Turn(std::shared_ptr<const Mutexes> mutexes, UpgradeMutex::Use use) : mutexes_(std::move(mutexes)), use_(use) {}
    std::shared_ptr<const Mutexes> mutexes_;
    UpgradeMutex::Use use_ = UpgradeMutex::Use::reading;
  };

  /// Waits for other threads. A caller that holds Python's interpreter lock has to release it first.
  ///
  /// @throws c10::Error  where UpgradeMutex::lock() does
  Turn wait(UpgradeMutex::Use use) const;

  /// The turn, if the lock is free; unset if this would have to wait.
  std::optional<Turn> try_take(UpgradeMutex::Use use) const;

  /// Whether this thread holds the lock, or another lock on one of its parts.
  bool is_held() const;

 private:
  std::shared_ptr<const Turn::Mutexes> mutexes_;
};

}  // namespace it3
