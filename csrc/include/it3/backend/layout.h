#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>

namespace it3 {

/// Which dimensions of a tensor are its samples and its channels; the others are positions (pixels, tokens, ...).
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

  bool operator==(const Layout&) const = default;
};

/// The shape of a tensor, and where its channels and samples are.
struct IT3_API ShapeAndLayout {
  std::vector<std::int64_t> shape;
  /// Its dimensions count from 0. `channel_dim` is unset for a tensor of one dimension.
  Layout layout;

  /// "(4, 384, 10, 10), channels in dimension 1 (384), samples in dimension 0".
  std::string str() const;
};

/// The channel dimension that a layer of this class works on: -1 for Linear, LayerNorm, LSTM, MultiheadAttention, ...;
/// 1 for convolutions, batch norms, pools, ...; nothing for classes that work on any, such as ReLU, or are not known.
IT3_API std::optional<std::int64_t> channel_dim_of_kind(std::string_view class_name);

/// What the kind of a layer of torch.nn tells of its output.
struct LayerKind {
  /// Where its channels are, see channel_dim_of_kind().
  std::optional<std::int64_t> channel_dim = std::nullopt;
  /// How many it has: out_features, out_channels, num_features, hidden_size times directions, ...
  std::optional<std::int64_t> channels = std::nullopt;
  /// Whether it is recurrent or an attention, whose samples can be in dimension 1.
  bool takes_sequences = false;
  /// Of such a layer, if it is known.
  std::optional<bool> batch_first = std::nullopt;
};

/// A layer's parameter or buffer by its name; undefined if it has none such.
using TensorOf = std::function<at::Tensor(const std::string& name)>;

/// The kind of a layer by its class in Python or C++, its sizes by its tensors.
IT3_API LayerKind
kind_of_layer(std::string_view class_name, const TensorOf& tensor, std::optional<bool> batch_first = {});

/// Whether a layer of this class works on each value by itself, as ReLU and Dropout do.
IT3_API bool is_elementwise(std::string_view class_name);

/// The layers that a tensor comes from.
struct Origin {
  /// Those in the layer or model that returns it, in their order; for a layer that has none, those before it.
  std::vector<LayerKind> inside = {};
  /// Those before.
  std::vector<LayerKind> before = {};
  /// Whether it is what the last one `inside` returns, by itself or through layers that work on each value.
  bool is_direct = false;
};

/// Whether a layer of this class normalizes.
IT3_API bool is_normalization(std::string_view class_name);

}  // namespace it3
