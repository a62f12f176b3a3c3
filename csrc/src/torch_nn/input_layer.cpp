#include <it3/input_layer.h>

#include <ostream>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/WrapDimUtils.h>
#include <c10/util/Exception.h>

namespace it3 {

InputLayerImpl::InputLayerImpl(std::int64_t extra_channels, std::int64_t channel_dim)
    : extra_channels_(extra_channels), channel_dim_(channel_dim) {
  TORCH_CHECK_VALUE(extra_channels >= 0, "extra_channels must be a whole number, 0 or more, not ", extra_channels);
}

void InputLayerImpl::pretty_print(std::ostream& stream) const {
  stream << "it3::InputLayer(extra_channels=" << extra_channels_ << ", channel_dim=" << channel_dim_ << ")";
}

at::Tensor InputLayerImpl::forward(const at::Tensor& input) {
  TORCH_CHECK_VALUE(
      (input.is_floating_point() || input.is_complex()) && channel_dim_ < input.dim() && channel_dim_ >= -input.dim(),
      "the input layer takes floating-point tensors with channels in dimension ", channel_dim_, ", not one of shape ",
      input.sizes(), " and dtype ", input.scalar_type());
  if (extra_channels_ == 0) return input;
  std::vector<std::int64_t> sizes = input.sizes().vec();
  sizes[static_cast<std::size_t>(c10::maybe_wrap_dim(channel_dim_, input.dim()))] = extra_channels_;
  return at::cat({input, input.new_zeros(sizes)}, channel_dim_);
}

}  // namespace it3
