#include <it3/backend/first_call.h>

#include <exception>
#include <functional>
#include <utility>

#include <it3/injection.h>

namespace it3 {
namespace {

/// Makes an embedder without shape so again.
class Unbuilt {
 public:
  explicit Unbuilt(const std::shared_ptr<LazyEmbedder>& embedder) {
    if (embedder != nullptr && !embedder->is_built()) clear_ = embedder->clearing();
  }
  ~Unbuilt() {
    if (clear_) clear_();
  }
  Unbuilt(const Unbuilt&) = delete;
  Unbuilt& operator=(const Unbuilt&) = delete;

 private:
  std::function<void()> clear_;
};

}  // namespace

FirstUse::FirstUse(std::shared_ptr<LazyEmbedder> embedder)
    : embedder_(std::move(embedder)), exceptions_(std::uncaught_exceptions()) {
  if (embedder_ == nullptr) return;
  {
    const auto after_whoever_shapes_it = embedder_->lock().wait(UpgradeMutex::Use::reading);
    if (embedder_->is_built()) embedder_ = nullptr;
  }
  if (embedder_ == nullptr) return;
  alone_.emplace(embedder_->lock().wait(UpgradeMutex::Use::alone));
  if (!embedder_->is_built()) {
    clear_ = embedder_->clearing();
    return;
  }
  alone_.reset();
  embedder_ = nullptr;
}

FirstUse::~FirstUse() {
  if (clear_ && std::uncaught_exceptions() > exceptions_) clear_();
}

bool FirstUse::is_over(const std::shared_ptr<LazyEmbedder>& embedder) {
  return embedder == nullptr || (embedder->lock().try_take(UpgradeMutex::Use::reading) && embedder->is_built());
}

EngineSetup look_at_first(const EngineCall& call, const Origin& of_prediction, const Origin& of_features) {
  EngineSetup looked = call.setup;
  // The passes read the network's own weights, which another thread may be about to adapt for good.
  const auto reading = call.network.lock_on(tensors_of(call.network.parameters())).wait(UpgradeMutex::Use::reading);
  const auto& embedder = looked.functions.embedder;
  const bool is_default = embedder != nullptr;
  looked.layouts = settle_layouts(
      call.network, call.inputs, looked.layouts, of_prediction, of_features, call.network.layer_name(),
      {is_default || looked.needs_classes(), is_default});
  if (is_default) embedder->set_layouts(looked.layouts);
  const Unbuilt unbuilt(embedder);  // the call itself draws its weights
  looked.is_looked_at = check_injection(call.network, looked.method(call.method.in_dims), call.inputs);
  return looked;
}

}  // namespace it3
