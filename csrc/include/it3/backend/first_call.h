#pragma once

#include <functional>
#include <memory>
#include <optional>

#include <it3/backend/engine_setup.h>
#include <it3/backend/export.h>
#include <it3/backend/model_lock.h>
#include <it3/network.h>

namespace it3 {

/// Waits until an embedder has its shape or, where nobody is about to give it one, lets no other thread do so while it
/// lives. Clears the embedder if an exception ends the call that was to give it one.
class IT3_API FirstUse {
 public:
  /// @param embedder  may be null
  explicit FirstUse(std::shared_ptr<LazyEmbedder> embedder);
  ~FirstUse();
  FirstUse(const FirstUse&) = delete;
  FirstUse& operator=(const FirstUse&) = delete;

  /// Whether one would neither have to wait, nor have anything to clear.
  static bool is_over(const std::shared_ptr<LazyEmbedder>& embedder);

 private:
  std::shared_ptr<LazyEmbedder> embedder_;  // null if it had its shape
  std::function<void()> clear_;
  std::optional<ModelLock::Turn> alone_;
  int exceptions_;
};

/// What is found out before a first call with a setup: settles the layouts, see settle_layouts(), and checks that what
/// is injected reaches the prediction, see check_injection(). An embedder without shape has none afterwards either.
/// The caller keeps other threads from looking with this embedder meanwhile.
///
/// Returns the setup with its layouts; `is_looked_at` is false where the inputs could not tell. Raises what the two
/// raise.
IT3_API EngineSetup look_at_first(const EngineCall& call, const Origin& of_prediction, const Origin& of_features);

}  // namespace it3
