#include <it3/backend/model_lock.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <c10/util/ScopeExit.h>

namespace it3 {
namespace {

/// Which mutex is for which part, as long as some lock has it.
struct Registry {
  std::mutex mutex;
  std::unordered_map<const void*, std::weak_ptr<detail::PartMutex>> by_part;
};

/// Never destroyed, because locks in other static objects may end after it.
Registry& registry() {
  static auto* const all = new Registry;
  return *all;
}

}  // namespace

/// A mutex for some parts.
class detail::PartMutex {
 public:
  explicit PartMutex(std::vector<const void*> parts) : parts_(std::move(parts)) {}
  ~PartMutex() {
    const std::scoped_lock lock(registry().mutex);
    for (const void* const part : parts_) {
      const auto found = registry().by_part.find(part);
      if (found != registry().by_part.end() && found->second.expired()) registry().by_part.erase(found);
    }
  }
  PartMutex(const PartMutex&) = delete;
  PartMutex& operator=(const PartMutex&) = delete;

  UpgradeMutex mutex;

 private:
  std::vector<const void*> parts_;
};

namespace {

/// Takes mutexes in turn, unless `take` refuses one or raises: then those that were taken are given back. Whether it
/// has all.
template <typename Take>
bool take_all(const std::vector<std::shared_ptr<detail::PartMutex>>& mutexes, UpgradeMutex::Use use, const Take& take) {
  std::size_t taken = 0;
  auto give_back = c10::make_scope_exit([&] {
    while (taken-- > 0) mutexes[taken]->mutex.unlock(use);
  });
  for (; taken < mutexes.size(); ++taken) {
    if (!take(mutexes[taken]->mutex)) return false;
  }
  give_back.release();
  return true;
}

}  // namespace

ModelLock::ModelLock(const std::vector<at::Tensor>& tensors, const std::vector<const void*>& parts) {
  std::unordered_set<const void*> all(parts.begin(), parts.end());
  for (const at::Tensor& tensor : tensors) all.insert(tensor.unsafeGetTensorImpl());
  if (all.empty()) return;
  Turn::Mutexes mutexes;  // outlives the lock below, which ~PartMutex takes
  std::vector<const void*> unknown;
  {
    const std::scoped_lock lock(registry().mutex);
    // NOLINTNEXTLINE(bugprone-nondeterministic-pointer-iteration-order): their order comes below
    for (const void* const part : all) {
      const auto found = registry().by_part.find(part);
      auto known = found == registry().by_part.end() ? nullptr : found->second.lock();
      if (known == nullptr) {
        unknown.push_back(part);
      } else {
        mutexes.push_back(std::move(known));
      }
    }
    // One for all parts that no other model has, so that most models have a single one.
    if (!unknown.empty()) {
      mutexes.push_back(std::make_shared<detail::PartMutex>(unknown));
      for (const void* const part : unknown) registry().by_part[part] = mutexes.back();
    }
  }
  // In one order everywhere, so that two threads never wait for each other.
  std::sort(mutexes.begin(), mutexes.end());
  mutexes.erase(std::unique(mutexes.begin(), mutexes.end()), mutexes.end());
  mutexes_ = std::make_shared<const Turn::Mutexes>(std::move(mutexes));
}

ModelLock::Turn ModelLock::wait(UpgradeMutex::Use use) const {
  if (mutexes_ != nullptr) {
    take_all(*mutexes_, use, [&](UpgradeMutex& mutex) {
      mutex.lock(use);
      return true;
    });
  }
  return {mutexes_, use};
}

std::optional<ModelLock::Turn> ModelLock::try_take(UpgradeMutex::Use use) const {
  const auto take = [&](UpgradeMutex& mutex) { return mutex.try_lock(use); };
  if (mutexes_ != nullptr && !take_all(*mutexes_, use, take)) return std::nullopt;
  return Turn(mutexes_, use);
}

bool ModelLock::is_held() const {
  return mutexes_ != nullptr &&
         std::any_of(mutexes_->begin(), mutexes_->end(), [](const auto& part) { return part->mutex.is_held(); });
}

ModelLock::Turn::~Turn() {
  if (mutexes_ == nullptr) return;
  for (auto part = mutexes_->rbegin(); part != mutexes_->rend(); ++part) (*part)->mutex.unlock(use_);
}

}  // namespace it3
