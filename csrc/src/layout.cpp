#include <algorithm>
#include <array>

#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>

#include <it3/layout.h>

namespace it3 {
namespace {

constexpr auto starts_with_any = [](std::string_view name, const auto& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return name.starts_with(p); });
};

/// A C++ module's class, such as torch::nn::Conv2dImpl, by its name in Python.
std::string_view python_name(std::string_view class_name) {
  if (const auto colon = class_name.rfind(':'); colon != std::string_view::npos) class_name.remove_prefix(colon + 1);
  if (class_name.ends_with("Impl")) class_name.remove_suffix(4);
  return class_name;
}

}  // namespace

std::int64_t Layout::channel_of(std::int64_t rank) const {
  return c10::maybe_wrap_dim(channel_dim.value_or(rank <= 3 ? -1 : 1), rank);
}

std::optional<std::int64_t> channel_dim_of_kind(std::string_view class_name) {
  // Whole names of torch.nn's layers: a user's class may be called ConvNet or TransformerClassifier.
  constexpr std::array<std::string_view, 19> last = {
      "Linear",
      "LazyLinear",
      "Bilinear",
      "LayerNorm",
      "RMSNorm",
      "Embedding",
      "EmbeddingBag",
      "LSTM",
      "GRU",
      "RNN",
      "LSTMCell",
      "GRUCell",
      "RNNCell",
      "MultiheadAttention",
      "Transformer",
      "TransformerEncoder",
      "TransformerDecoder",
      "TransformerEncoderLayer",
      "TransformerDecoderLayer"};
  constexpr std::array<std::string_view, 5> first = {
      "GroupNorm", "SyncBatchNorm", "Upsample", "PixelShuffle", "PixelUnshuffle"};
  constexpr std::array<std::string_view, 11> first_in_space = {
      "Conv",    "LazyConv",    "BatchNorm",   "LazyBatchNorm", "InstanceNorm", "LazyInstanceNorm",
      "MaxPool", "AdaptiveMax", "AdaptiveAvg", "AvgPool",       "LPPool"};
  const std::string_view name = python_name(class_name);
  const auto is_one_of = [&](const auto& names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  const bool is_in_space = name.ends_with("1d") || name.ends_with("2d") || name.ends_with("3d");
  if (is_one_of(last)) return -1;
  if (is_one_of(first) || (is_in_space && starts_with_any(name, first_in_space))) return 1;
  return std::nullopt;
}

bool is_normalisation(std::string_view class_name) {
  return python_name(class_name).find("Norm") != std::string_view::npos;
}

}  // namespace it3
