#pragma once

#include <cstdint>
#include <ostream>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <it3/backend/export.h>

namespace it3 {

/// A layer before all others, so that y0 can be fed back at the input of a model. There are two ways:
///
/// - with `extra_channels`, y0 is concatenated: the layer appends that many channels of zeros to its input, and y0 is
///   put into them. The next layer has to take that many more channels, and the engine's Embedder has to be made with
///   the same number of extra channels;
/// - without, the embedding of y0 is added to the input.
///
/// In a Sequential, name it as the layer of a ModuleNetwork. In another model, call it before an InjectionPoint.
///
/// @code{.cpp}
/// torch::nn::Sequential net(
///     {{"input", it3::InputLayer(3)}, {"fc", torch::nn::Linear(13 + 3, 64)},
///      {"relu", torch::nn::ReLU()}, {"head", torch::nn::Linear(64, 3)}});
/// auto network = std::make_shared<it3::ModuleNetwork>(net, "input");
/// it3::Engine engine(network, {.lr = 1e-4}, it3::Embedder(it3::Layout{}, it3::Layout{.channel_dim = 1}, 3));
/// it3::Losses losses = engine.losses(x, y);  // x is (8, 13), y is (8, 3)
/// @endcode
class IT3_API InputLayerImpl : public torch::nn::Cloneable<InputLayerImpl> {
 public:
  /// @param extra_channels  how many channels of zeros are appended
  /// @param channel_dim  the dimension of the input that holds channels, columns or node features; negative ones count
  ///                     from the end
  /// @throws c10::ValueError  for a negative number of channels
  explicit InputLayerImpl(std::int64_t extra_channels = 0, std::int64_t channel_dim = 1);

  /// Does nothing: the layer has no parameters.
  void reset() override {}
  /// Writes the layer as it was constructed.
  void pretty_print(std::ostream& stream) const override;

  /// The input with the extra channels appended; without extra channels, the input itself.
  ///
  /// @param input  floating-point or complex, with the dimension `channel_dim`
  /// @throws c10::ValueError  for an input that has no such dimension, or is of another dtype
  at::Tensor forward(const at::Tensor& input);  // a Sequential calls no const one

 private:
  std::int64_t extra_channels_;
  std::int64_t channel_dim_;
};
/// A shared pointer to InputLayerImpl, of the kind that torch::nn has for its modules.
TORCH_MODULE(InputLayer);

}  // namespace it3
