#include "batches.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "network/map_inputs.h"

namespace it3::apps {
namespace {

Inputs inputs_from(const c10::IValue& value) {
  if (value.isTensor()) return Inputs(value.toTensor());
  if (value.isTuple()) return Inputs(value.toTupleRef().elements().vec());
  if (value.isList()) return Inputs(value.toListRef().vec());
  TORCH_CHECK_VALUE(
      value.isGenericDict(), "the inputs are a ", value.tagKind(), ", not a tensor, tuple, list or dictionary");
  Inputs inputs;
  for (const auto& item : value.toGenericDict()) inputs.kwargs.emplace(item.key().toStringRef(), item.value());
  return inputs;
}

at::Tensor first_tensor_of(const Inputs& inputs) {
  for (const auto& value : inputs.args) {
    if (at::Tensor found = first_tensor(value); found.defined()) return found;
  }
  for (const auto& [name, value] : inputs.kwargs) {
    if (at::Tensor found = first_tensor(value); found.defined()) return found;
  }
  return {};
}

}  // namespace

Batches::Batches(
    const c10::IValue& value,
    std::int64_t batch_size,
    c10::Device device,
    c10::ScalarType floating_point,
    const std::optional<InDims>& in_dims,
    const Layout& prediction_layout)
    : all_(inputs_from(value)), batch_size_(batch_size), device_(device), floating_point_(floating_point) {
  const at::Tensor first = first_tensor_of(all_);
  TORCH_CHECK_VALUE(first.defined(), "there is no tensor in the inputs");
  TORCH_CHECK_VALUE(
      first.dim() > 0 && first.numel() > 0, "the first input has the shape ", first.sizes(),
      ", but needs a batch dimension with at least one sample");
  if (batch_size_ > 0) samples_.emplace(all_, in_dims, prediction_layout);
}

Inputs Batches::operator[](std::int64_t index) const {
  Inputs batch = all_;
  if (samples_) {
    const std::int64_t begin = index * batch_size_;
    batch = samples_->slice(begin, std::min(batch_size_, samples_->count() - begin));
  }
  return detail::map_tensors(batch, [&](const at::Tensor& t) {
    return t.to(device_, t.is_floating_point() ? floating_point_ : t.scalar_type());
  });
}

}  // namespace it3::apps
