#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>

#include "adapt/evaluation.h"

namespace it3::detail {

/// Which samples of a batch adapt, by Options::threshold, and what becomes of the others: they take no part in the
/// loss, and their answer is that of the network as it was. Samples that would make gradients NaN are left out of the
/// steps. Without a threshold all adapt. Borrows all that it is given.
class SampleChoice {
 public:
  SampleChoice(const AdaptCall& call, Evaluation& evaluation);
  SampleChoice(const SampleChoice&) = delete;
  SampleChoice& operator=(const SampleChoice&) = delete;

  /// Whether any sample adapts.
  bool has_any() const { return has_any_; }

  /// (B,) of booleans; undefined without a threshold.
  const at::Tensor& adapted() const { return adapted_; }

  /// The samples that count for the loss, as indices; undefined for all, and for stacked samples.
  const at::Tensor& rows() const { return rows_; }

  /// The network's first prediction as it was, if it is known; else the one given.
  at::Tensor first_or(const at::Tensor& prediction) const {
    return before_.first.defined() ? before_.first : prediction;
  }

  /// The adapted answer for the samples that adapted, and the one from before for the others.
  Answer answer() const;

 private:
  const AdaptCall& call_;
  Evaluation& evaluation_;
  Answer before_;
  at::Tensor adapted_, rows_;
  std::int64_t batch_dim_ = 0;
  bool has_any_ = true;
};

}  // namespace it3::detail
