#include <it3/lent_weights.h>

#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace it3 {

LentWeights::LentWeights(std::vector<at::Tensor> adapted, const std::vector<at::Tensor>& all)
    : adapted_(std::move(adapted)) {
  // All that can fail comes before the first change.
  std::unordered_set<at::TensorImpl*> changing;
  for (const auto& tensor : adapted_) {
    changing.insert(tensor.unsafeGetTensorImpl());
    own_.push_back(tensor.detach());
    values_.push_back(own_.back().clone());
  }
  for (const auto& tensor : all) {
    if (tensor.requires_grad() && !changing.contains(tensor.unsafeGetTensorImpl())) fixed_.push_back(tensor);
  }
  for (std::size_t i = 0; i < adapted_.size(); ++i) adapted_[i].set_data(values_[i]);
  for (const auto& tensor : fixed_) tensor.set_requires_grad(false);
}

LentWeights::~LentWeights() {
  for (std::size_t i = 0; i < adapted_.size(); ++i) adapted_[i].set_data(own_[i]);
  for (const auto& parameter : fixed_) parameter.set_requires_grad(true);
}

void LentWeights::set_constants(const std::vector<at::Tensor>& values) {
  for (std::size_t i = 0; i < adapted_.size(); ++i) {
    adapted_[i].set_requires_grad(false);
    adapted_[i].set_data(values[i].to(own_[i].scalar_type()));
  }
}

void LentWeights::clear_constants() {
  for (std::size_t i = 0; i < adapted_.size(); ++i) {
    adapted_[i].set_data(values_[i]);
    adapted_[i].set_requires_grad(true);
  }
}

void LentWeights::commit() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < own_.size(); ++i) own_[i].copy_(values_[i]);
}

}  // namespace it3
