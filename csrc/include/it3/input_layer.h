#pragma once

#include <cstdint>
#include <ostream>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <it3/backend/export.h>

namespace it3 {

/// A layer that stands before all others, so that y0 can be fed back at the input of a model. It gives its input with
/// `extra_channels` channels of zeros behind its own, into which y0 goes: then y0 is concatenated, and the first layer
/// behind takes that many channels more. Without them, y0's embedding is added to the input.
///
/// In a Sequential it is a child to name; elsewhere put it before an InjectionPoint.
class IT3_API InputLayerImpl : public torch::nn::Cloneable<InputLayerImpl> {
 public:
  /// @param channel_dim  the dimension of the input's channels, columns or node features
  /// Raises c10::ValueError for a negative number of channels.
  explicit InputLayerImpl(std::int64_t extra_channels = 0, std::int64_t channel_dim = 1);

  void reset() override {}
  void pretty_print(std::ostream& stream) const override;

  /// Raises c10::ValueError for an input without that dimension, or of integers.
  at::Tensor forward(const at::Tensor& input);  // a Sequential calls no const one

 private:
  std::int64_t extra_channels_;
  std::int64_t channel_dim_;
};
TORCH_MODULE(InputLayer);

}  // namespace it3
