#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>
#include <it3/backend/inputs.h>
#include <it3/backend/layout.h>

namespace it3 {

/// Along which dimension of each tensor in the inputs the samples lie, in the convention of torch.vmap: a number for
/// all tensors; or a tuple or list of as many as there are positional inputs, or a dict for keywords, whose elements
/// are a number, None for tensors that all samples share, or, for nested inputs, such a structure again.
using InDims = c10::IValue;

/// The samples of a batch of inputs, which can be taken apart.
class IT3_API Samples {
 public:
  /// Without `in_dims`, the samples lie where the prediction's layout has them in a tensor of that rank. One tensor is
  /// then enough to tell; of several, those of another size are shared by all samples.
  ///
  /// Raises c10::ValueError if there is no tensor with samples; if tensors have different numbers of samples; and if,
  /// without `in_dims`, several tensors have as many elements as there are samples, which may be chance.
  Samples(Inputs inputs, const std::optional<InDims>& in_dims, const Layout& prediction_layout);

  std::int64_t count() const { return count_; }

  /// Along which dimension each tensor has the samples, in the order of the tensors; nothing for those that are shared.
  const std::vector<std::optional<std::int64_t>>& dims() const { return dims_; }

  /// Some of the samples, with what they share.
  Inputs slice(std::int64_t begin, std::int64_t count) const;

  /// The samples of these indices, with what they share.
  Inputs select(const at::Tensor& indices) const;

  /// Batches of one sample each, stacked along a new first dimension of every tensor.
  Inputs stack(std::int64_t begin, std::int64_t count) const;

  /// Whether a sample, with what it shares with the others, is finite, (B,) of booleans on the CPU.
  ///
  /// @param spares_masks  counts -infinity as finite, as additive attention masks are made of it
  at::Tensor are_finite(bool spares_masks) const;

 private:
  template <typename Function>
  Inputs map(const Function& function) const;

  Inputs inputs_;
  std::vector<std::optional<std::int64_t>> dims_;  // of each tensor, in their order
  std::int64_t count_ = 0;
};

}  // namespace it3
