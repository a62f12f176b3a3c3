#include <it3/network.h>

#include <algorithm>
#include <atomic>

namespace it3 {

std::uint64_t Network::next_id() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

ModelLock Network::lock_on(const std::vector<at::Tensor>& tensors) const {
  const std::scoped_lock guard(kept_lock_mutex_);
  const bool is_known = std::equal(
      tensors.begin(), tensors.end(), kept_lock_tensors_.begin(), kept_lock_tensors_.end(),
      [](const at::Tensor& t, const void* known) { return t.unsafeGetTensorImpl() == known; });
  if (!is_known) {
    kept_lock_tensors_.clear();
    for (const at::Tensor& t : tensors) kept_lock_tensors_.push_back(t.unsafeGetTensorImpl());
    kept_lock_ = ModelLock(tensors);
  }
  return kept_lock_;
}

std::vector<std::pair<std::string, at::Tensor>> Network::named_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& parameter : parameters()) tensors.emplace_back(parameter.name, parameter.tensor);
  return tensors;
}

bool Network::is_in_use_here() const { return lock_on(tensors_of(parameters())).is_held(); }

}  // namespace it3
