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

/// Which dimensions of a tensor are its samples and its channels (classes, components, features). All others are
/// positions (pixels, tokens, ...).
///
/// @code{.cpp}
/// it3::Layout sequences{.channel_dim = -1, .batch_dim = 1};  // (tokens, B, C)
/// assert(sequences.channel_of(3) == 2 && sequences.batch_of(3) == 1);
/// assert(it3::Layout().channel_of(4) == 1);  // (B, C, H, W)
/// engine.set_prediction_layout({.channel_dim = 1});
/// @endcode
struct IT3_API Layout {
  /// The dimension of the channels; negative ones count from the end. Unset: the last one of tensors with up to three
  /// dimensions, else dimension 1.
  std::optional<std::int64_t> channel_dim = std::nullopt;
  /// The dimension of the samples, for tensors of three or more dimensions. Those of fewer have samples in dimension 0.
  std::int64_t batch_dim = 0;

  /// The channel dimension of a tensor with `rank` dimensions, counted from 0.
  ///
  /// @throws c10::IndexError  if the tensor has no such dimension
  std::int64_t channel_of(std::int64_t rank) const;

  /// The sample dimension of a tensor with `rank` dimensions.
  std::int64_t batch_of(std::int64_t rank) const { return rank < 3 ? 0 : batch_dim; }

  /// Whether both dimensions are equal.
  bool operator==(const Layout&) const = default;
};

/// The shape of a tensor, and which of its dimensions are channels and samples.
struct IT3_API ShapeAndLayout {
  /// The size of each dimension.
  std::vector<std::int64_t> shape;
  /// Dimensions are counted from 0 here. `channel_dim` is unset for a tensor with one dimension.
  Layout layout;

  /// As text: "(4, 384, 10, 10), channels in dimension 1 (384), samples in dimension 0".
  std::string str() const;
};

/// The channel dimension that layers of this class work on: -1 for Linear, LayerNorm, LSTM, MultiheadAttention, ...;
/// 1 for convolutions, batch normalization, pooling, ...; unset for unknown classes, and for those that work on any
/// dimension, such as ReLU.
IT3_API std::optional<std::int64_t> channel_dim_of_kind(std::string_view class_name);

/// What the class of a torch.nn layer tells about its output.
struct LayerKind {
  /// The dimension of its channels; see channel_dim_of_kind().
  std::optional<std::int64_t> channel_dim = std::nullopt;
  /// The number of channels: out_features, out_channels, num_features, hidden_size times directions, ...
  std::optional<std::int64_t> channels = std::nullopt;
  /// Whether the layer is recurrent or an attention, so that its samples can be in dimension 1.
  bool takes_sequences = false;
  /// Whether the samples of such a layer are in dimension 0, if that is known.
  std::optional<bool> batch_first = std::nullopt;
};

/// Returns a layer's parameter or buffer by its name; undefined if it has none of this name.
using TensorOf = std::function<at::Tensor(const std::string& name)>;

/// The kind of a layer: the dimensions by the name of its class in Python or C++, the sizes by its tensors.
IT3_API LayerKind
kind_of_layer(std::string_view class_name, const TensorOf& tensor, std::optional<bool> batch_first = {});

/// Whether layers of this class work on each value separately, as ReLU and Dropout do.
IT3_API bool is_elementwise(std::string_view class_name);

/// The layers that compute a tensor.
struct Origin {
  /// The layers in the module that returns the tensor, in their order; for a module without layers, those before it.
  std::vector<LayerKind> inside = {};
  /// The layers before that module.
  std::vector<LayerKind> before = {};
  /// Whether the tensor is the output of the last layer of `inside`, possibly through elementwise layers.
  bool is_direct = false;
};

/// Whether layers of this class normalize, as BatchNorm2d and LayerNorm do.
IT3_API bool is_normalization(std::string_view class_name);

}  // namespace it3
