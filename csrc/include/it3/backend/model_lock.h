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

/// What keeps threads from using a model's own tensors and flags in ways that do not go together: see UpgradeMutex. All
/// locks that name one part, a tensor or a module, share a mutex for it, so that they hold for engines around one
/// model, and around models with a part in common.
class IT3_API ModelLock {
 public:
  /// A lock on nothing, which never waits.
  ModelLock() = default;

  /// @param tensors  parameters and buffers of the model
  /// @param parts  addresses of other things that are used, such as its modules
  explicit ModelLock(const std::vector<at::Tensor>& tensors, const std::vector<const void*>& parts = {});

  /// Has the lock for its use while it lives. It is destroyed in the thread that made it.
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

  /// Waits for other threads. A caller that holds Python's interpreter lock gives it up first. Raises what
  /// UpgradeMutex::lock() raises.
  Turn wait(UpgradeMutex::Use use) const;

  /// Nothing where it would have to wait.
  std::optional<Turn> try_take(UpgradeMutex::Use use) const;

  /// Whether this thread has the lock, or another one on a part of it.
  bool is_held() const;

 private:
  std::shared_ptr<const Turn::Mutexes> mutexes_;
};

}  // namespace it3
