#include "batches.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

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

Batches::Batches(const c10::IValue& value, std::int64_t batch_size, c10::Device device, c10::ScalarType floating_point)
    : all_(inputs_from(value)), device_(device), floating_point_(floating_point) {
  const at::Tensor first = first_tensor_of(all_);
  TORCH_CHECK_VALUE(first.defined(), "there is no tensor in the inputs");
  TORCH_CHECK_VALUE(
      first.dim() > 0 && first.size(0) > 0, "the inputs have shape ", first.sizes(),
      "; they need samples in dimension 0");
  samples_ = first.size(0);
  batch_size_ = batch_size == 0 ? samples_ : std::min(batch_size, samples_);
}

c10::IValue Batches::cut(const c10::IValue& value, std::int64_t index) const {
  if (!value.isTensor()) return value;
  at::Tensor tensor = value.toTensor();
  if (tensor.dim() > 0 && tensor.size(0) == samples_) {
    const std::int64_t start = index * batch_size_;
    tensor = tensor.slice(0, start, std::min(start + batch_size_, samples_));
  }
  return tensor.to(device_, tensor.is_floating_point() ? floating_point_ : tensor.scalar_type());
}

Inputs Batches::operator[](std::int64_t index) const {
  Inputs batch;
  for (const auto& value : all_.args) batch.args.push_back(cut(value, index));
  for (const auto& [name, value] : all_.kwargs) batch.kwargs.emplace(name, cut(value, index));
  return batch;
}

}  // namespace it3::apps
