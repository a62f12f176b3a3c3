#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include <ATen/core/Tensor.h>

#include <it3/export.h>

namespace it3 {

/// Which dimensions of a tensor are its samples and its channels; the others are places (pixels, tokens, ...).
struct IT3_API Layout {
  /// Unset: the last of up to three dimensions, else dimension 1.
  std::optional<std::int64_t> channel_dim = std::nullopt;
  /// Of tensors of three or more dimensions; those of fewer have their samples first.
  std::int64_t batch_dim = 0;

  /// The channel dimension of a tensor of `rank` dimensions, counted from 0. Raises c10::IndexError if there is none
  /// such.
  std::int64_t channel_of(std::int64_t rank) const;

  /// The batch dimension of a tensor of `rank` dimensions.
  std::int64_t batch_of(std::int64_t rank) const { return rank < 3 ? 0 : batch_dim; }
};

/// The channel dimension that a layer of this class works on: -1 for Linear, LayerNorm, LSTM, MultiheadAttention, ...;
/// 1 for convolutions, batch norms, pools, ...; nothing for classes that work on any, such as ReLU, or are not known.
IT3_API std::optional<std::int64_t> channel_dim_of_kind(std::string_view class_name);

/// Whether a layer of this class normalises.
IT3_API bool is_normalisation(std::string_view class_name);

}  // namespace it3
