#include <algorithm>
#include <array>

#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>
#include <c10/util/StringUtil.h>

#include <it3/backend/layout.h>

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

std::string ShapeAndLayout::str() const {
  std::string text = c10::str("(", c10::Join(", ", shape), shape.size() == 1 ? ",)" : ")");
  if (layout.channel_dim) {
    const auto channels = shape.at(static_cast<std::size_t>(*layout.channel_dim));
    text += c10::str(", channels in dimension ", *layout.channel_dim, " (", channels, ")");
  }
  return text + c10::str(", samples in dimension ", layout.batch_dim);
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

bool is_elementwise(std::string_view class_name) {
  constexpr std::array<std::string_view, 31> names = {
      "ReLU",
      "ReLU6",
      "LeakyReLU",
      "PReLU",
      "RReLU",
      "ELU",
      "SELU",
      "CELU",
      "GELU",
      "SiLU",
      "Mish",
      "Tanh",
      "Sigmoid",
      "LogSigmoid",
      "Softplus",
      "Softsign",
      "Softshrink",
      "Hardshrink",
      "Hardtanh",
      "Hardswish",
      "Hardsigmoid",
      "Threshold",
      "Tanhshrink",
      "Dropout",
      "Dropout1d",
      "Dropout2d",
      "Dropout3d",
      "AlphaDropout",
      "Identity",
      "Softmax",
      "FeatureAlphaDropout"};
  const std::string_view name = python_name(class_name);
  return name == "InjectionPoint" || name == "LogSoftmax" || std::find(names.begin(), names.end(), name) != names.end();
}

LayerKind kind_of_layer(std::string_view class_name, const TensorOf& tensor, std::optional<bool> batch_first) {
  const std::string_view name = python_name(class_name);
  LayerKind kind{channel_dim_of_kind(class_name)};
  if (!kind.channel_dim) return kind;
  const auto size = [&](const char* parameter, std::int64_t dim) -> std::optional<std::int64_t> {
    const at::Tensor t = tensor(parameter);
    if (!t.defined() || t.dim() < 1 || dim >= t.dim() || t.dim() < -dim) return std::nullopt;
    return t.size(dim);
  };
  const auto first_of = [](std::optional<std::int64_t> a, std::optional<std::int64_t> b) { return a ? a : b; };
  const bool is_recurrent = name.starts_with("LSTM") || name.starts_with("GRU") || name.starts_with("RNN");
  kind.takes_sequences = is_recurrent || name == "MultiheadAttention" || name.starts_with("Transformer");
  if (kind.takes_sequences) kind.batch_first = batch_first;
  if (is_recurrent && name.ends_with("Cell")) {
    kind.channels = size("weight_hh", 1);
  } else if (is_recurrent) {
    kind.channels = first_of(size("weight_hr_l0", 0), size("weight_hh_l0", 1));
    if (kind.channels && tensor("weight_hh_l0_reverse").defined()) *kind.channels *= 2;
  } else if (name == "MultiheadAttention") {
    kind.channels = first_of(size("in_proj_weight", 1), size("q_proj_weight", 0));
  } else if (name.starts_with("Embedding")) {
    kind.channels = size("weight", 1);
  } else if (is_normalization(name)) {
    kind.channels = first_of(size("weight", -1), size("running_mean", 0));
  } else if (name.find("Transpose") != std::string_view::npos) {
    kind.channels = first_of(size("bias", 0), size("weight", 1));
  } else {
    kind.channels = first_of(size("weight", 0), size("bias", 0));
  }
  return kind;
}

bool is_normalization(std::string_view class_name) {
  return python_name(class_name).find("Norm") != std::string_view::npos;
}

}  // namespace it3
