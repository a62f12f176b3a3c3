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

/// Which dimension of each tensor in the inputs holds the samples, in the convention of torch.vmap. It is one number
/// for all tensors; or a tuple or list with an element for each positional input; or a dict with an element for each
/// keyword. An element is a number; None for tensors that all samples share; or, for nested inputs, such a structure
/// again.
using InDims = c10::IValue;

/// The samples of a batch of inputs, which can be selected.
///
/// @code{.cpp}
/// it3::Inputs inputs({x, torch::ones({13})});  // a batch, and a vector that all samples share
/// it3::InDims in_dims(c10::ivalue::Tuple::create({c10::IValue(0), c10::IValue()}));
/// it3::Samples samples(inputs, in_dims, it3::Layout());
/// it3::Inputs last = samples.slice(samples.count() - 2, 2);
/// assert(last.args[0].toTensor().size(0) == 2 && last.args[1].toTensor().size(0) == 13);
/// @endcode
class IT3_API Samples {
 public:
  /// @param inputs  the batch
  /// @param in_dims  which dimensions hold the samples. Unset: in the first tensor, the sample dimension of
  ///     `prediction_layout`. Other tensors are then shared by all samples, if their size along that dimension differs
  /// @param prediction_layout  which dimensions of predictions are samples and channels
  /// @throws c10::ValueError  if no tensor has samples; if tensors have different numbers of samples; and, without
  ///     `in_dims`, if another tensor has the same size along that dimension, as it may be chance
  Samples(Inputs inputs, const std::optional<InDims>& in_dims, const Layout& prediction_layout);

  /// The number of samples.
  std::int64_t count() const { return count_; }

  /// Which dimension of each tensor holds the samples, in the order of the tensors; unset for shared ones.
  const std::vector<std::optional<std::int64_t>>& dims() const { return dims_; }

  /// Inputs with `count` samples from `begin` on, and everything that the samples share.
  Inputs slice(std::int64_t begin, std::int64_t count) const;

  /// Inputs with the samples at these indices, (R,) of int64, and everything that the samples share.
  Inputs select(const at::Tensor& indices) const;

  /// `count` batches of one sample each, from `begin` on, stacked along a new first dimension of every tensor.
  Inputs stack(std::int64_t begin, std::int64_t count) const;

  /// Whether each sample is finite, together with everything that the samples share: (B,) of booleans on the CPU.
  ///
  /// @param spares_masks  whether −∞ counts as finite, as additive attention masks contain it
  at::Tensor are_finite(bool spares_masks) const;

 private:
  template <typename Function>
  Inputs map(const Function& function) const;

  Inputs inputs_;
  std::vector<std::optional<std::int64_t>> dims_;  // of each tensor, in their order
  std::int64_t count_ = 0;
};

}  // namespace it3
