#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace it3::detail {

inline std::vector<at::Tensor> copies_of(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies;
  copies.reserve(tensors.size());
  for (const auto& t : tensors) copies.push_back(t.clone());
  return copies;
}

/// Conditions on samples, spread over the other dimensions of a tensor.
inline at::Tensor along_samples(const at::Tensor& conditions, const at::Tensor& t, std::int64_t batch_dim = 0) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(t.dim()), 1);
  sizes[static_cast<std::size_t>(batch_dim)] = conditions.size(0);
  return conditions.view(sizes);
}

/// Both conditions, where they are defined.
inline at::Tensor both(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() ? a : b;
  return a.logical_and(b);
}

/// The samples whose weights a step of all samples together is not to move.
class StoppedSamples {
 public:
  /// @param may_move  (samples,) of booleans; undefined if all may
  StoppedSamples(at::Tensor may_move, const std::vector<at::Tensor>& values)
      : may_move_(std::move(may_move)), values_(values) {
    if (may_move_.defined()) before_ = copies_of(values_);
  }

  /// Puts their weights back to what they were.
  void restore() const {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < before_.size(); ++i) {
      values_[i].copy_(at::where(along_samples(may_move_, values_[i]), values_[i], before_[i]));
    }
  }

 private:
  at::Tensor may_move_;
  const std::vector<at::Tensor>& values_;
  std::vector<at::Tensor> before_;
};

}  // namespace it3::detail
