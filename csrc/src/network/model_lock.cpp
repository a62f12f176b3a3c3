#include <it3/backend/model_lock.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>

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
  std::size_t taken = 0;
  try {
    for (; mutexes_ != nullptr && taken < mutexes_->size(); ++taken) (*mutexes_)[taken]->mutex.lock(use);
  } catch (...) {
    while (taken-- > 0) (*mutexes_)[taken]->mutex.unlock(use);
    throw;
  }
  return {mutexes_, use};
}

std::optional<ModelLock::Turn> ModelLock::try_take(UpgradeMutex::Use use) const {
  std::size_t taken = 0;
  const auto give_back = [&] {
    while (taken-- > 0) (*mutexes_)[taken]->mutex.unlock(use);
  };
  try {
    for (; mutexes_ != nullptr && taken < mutexes_->size(); ++taken) {
      if ((*mutexes_)[taken]->mutex.try_lock(use)) continue;
      give_back();
      return std::nullopt;
    }
  } catch (...) {
    give_back();
    throw;
  }
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
