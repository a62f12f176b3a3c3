#include "network/pass_inputs.h"

#include <map>
#include <set>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "network/map_inputs.h"

namespace it3::detail {
namespace {

/// Copies that lie over one memory where the given tensors do, so that a write to one is seen by the same others.
Inputs copies_with_same_sharing(const Inputs& inputs) {
  std::map<at::TensorImpl*, at::Tensor> copies;
  std::map<const void*, std::set<at::TensorImpl*>> sharers;
  const auto memory_of = [](const at::Tensor& t) -> const void* {
    return t.layout() == at::kStrided && t.has_storage() ? t.storage().unsafeGetStorageImpl() : nullptr;
  };
  for (const at::Tensor& t : tensors_in(inputs)) sharers[memory_of(t)].insert(t.unsafeGetTensorImpl());
  std::map<std::pair<const void*, at::ScalarType>, at::Tensor> wholes;
  return map_tensors(inputs, [&](const at::Tensor& t) {
    at::Tensor& copy = copies[t.unsafeGetTensorImpl()];
    if (copy.defined()) return copy;
    const void* const memory = memory_of(t);
    if (memory == nullptr || sharers[memory].size() == 1) return copy = t.clone();
    at::Tensor& whole = wholes[{memory, t.scalar_type()}];
    if (!whole.defined()) {
      const auto elements = static_cast<std::int64_t>(t.storage().nbytes() / t.itemsize());
      whole = t.detach().as_strided({elements}, {1}, 0).clone();
    }
    return copy = whole.as_strided(t.sizes(), t.strides(), t.storage_offset());
  });
}

}  // namespace

const Inputs& PassInputs::next() {
  if (!may_be_written_) return given_;
  if (has_run_ && !were_written()) return own_;
  if (has_run_ && after_first_.empty()) {
    for (std::size_t i = 0; i < own_tensors_.size(); ++i) {
      const bool was_written = own_tensors_[i]._version() != versions_[i];
      after_first_.push_back(was_written ? own_tensors_[i].detach() : at::Tensor());
    }
  }
  own_ = copies_with_same_sharing(given_);
  own_tensors_ = tensors_in(own_);
  versions_.clear();
  for (const at::Tensor& t : own_tensors_) versions_.push_back(t._version());
  has_run_ = true;
  return own_;
}

bool PassInputs::were_written() const {
  for (std::size_t i = 0; i < own_tensors_.size(); ++i) {
    if (own_tensors_[i]._version() != versions_[i]) return true;
  }
  return false;
}

void PassInputs::finish() {
  if (!may_be_written_ || (after_first_.empty() && !were_written())) return;
  if (after_first_.empty()) next();  // notes what the only pass wrote
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> callers = tensors_in(callers_);
  for (std::size_t i = 0; i < callers.size(); ++i) {
    if (!after_first_[i].defined()) continue;
    const c10::InferenceMode mode(callers[i].is_inference());
    callers[i].detach().copy_(after_first_[i]);
  }
}

}  // namespace it3::detail
