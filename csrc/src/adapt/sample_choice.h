#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/network.h>

#include "adapt/answer.h"
#include "method/passes.h"
#include "network/pass_inputs.h"

namespace it3::detail {

/// Which samples of a batch adapt, by Options::threshold, and what becomes of the others: they take no part in the
/// loss, and their answer is that of the network as it was. Without a threshold all adapt. Borrows all that it is
/// given.
class SampleChoice {
 public:
  /// @param passes  on the whole batch
  SampleChoice(const AdaptCall& call, WorkingCopy& copy, const Passes& passes, const at::Tensor& neutral);
  SampleChoice(const SampleChoice&) = delete;
  SampleChoice& operator=(const SampleChoice&) = delete;

  /// Whether any sample adapts.
  bool has_any() const { return has_any_; }

  /// (B,) of booleans; undefined without a threshold.
  const at::Tensor& adapted() const { return adapted_; }

  /// The samples that count for the loss, as indices; undefined for all, and for stacked samples.
  const at::Tensor& rows() const { return rows_; }

  /// Where predictions have their samples.
  std::int64_t batch_dim() const { return batch_dim_; }

  /// The passes that the steps differentiate, in which samples that would make gradients NaN are left out.
  const Passes& passes() const { return finite_passes_ ? *finite_passes_ : passes_; }

  /// The network's first prediction as it was, if it is known; else the one given.
  at::Tensor first_or(const at::Tensor& prediction) const {
    return before_.first.defined() ? before_.first : prediction;
  }

  /// The adapted answer for the samples that adapted, and the one from before for the others.
  Answer answer_of(WorkingCopy& copy) const;

 private:
  void leave_out_non_finite(const at::Tensor& distances, WorkingCopy& copy, const at::Tensor& neutral);

  const AdaptCall& call_;
  const Passes& passes_;
  Answer before_;
  at::Tensor adapted_, rows_;
  std::int64_t batch_dim_ = 0;
  bool has_any_ = true;
  Inputs finite_samples_;
  std::optional<PassInputs> finite_inputs_;
  std::optional<Passes> finite_passes_;
};

}  // namespace it3::detail
