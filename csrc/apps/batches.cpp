#include "batches.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "network/map_inputs.h"
#include "tensor_files.h"

namespace it3::apps {
namespace {

Inputs inputs_from(const c10::IValue& value, const std::string& path) {
  if (value.isTensor()) return Inputs(value.toTensor());
  if (value.isTuple()) return Inputs(value.toTupleRef().elements().vec());
  if (value.isList()) return Inputs(value.toListRef().vec());
  TORCH_CHECK_VALUE(
      value.isGenericDict(), "the inputs in ", path, " are a ", value.tagKind(),
      ", not a tensor, tuple, list or dictionary");
  Inputs inputs;
  for (const auto& item : value.toGenericDict()) {
    TORCH_CHECK_VALUE(
        item.key().isString(), "the keys of the dictionary in ", path, " must be names of arguments, not ",
        item.key().tagKind(), "s");
    inputs.kwargs.emplace(item.key().toStringRef(), item.value());
  }
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
    const std::string& path,
    std::int64_t batch_size,
    c10::Device device,
    c10::ScalarType floating_point,
    const std::optional<InDims>& in_dims,
    const Layout& prediction_layout)
    : batch_size_(batch_size), device_(device), floating_point_(floating_point) {
  if (is_npy(path)) {
    npy_.emplace(path);
    all_ = Inputs(at::zeros({1}).as_strided(npy_->shape(), std::vector<std::int64_t>(npy_->shape().size(), 0)));
  } else {
    all_ = inputs_from(read_pt(path), path);
  }
  const at::Tensor first = first_tensor_of(all_);
  TORCH_CHECK_VALUE(first.defined(), "there is no tensor in ", path);
  TORCH_CHECK_VALUE(
      first.dim() > 0 && first.numel() > 0, "the first input in ", path, " has the shape ", first.sizes(),
      ", but needs a batch dimension with at least one sample");
  if (batch_size_ > 0) {
    samples_.emplace(all_, in_dims, prediction_layout);
    batch_size_ = std::min(batch_size_, samples_->count());
  }
}

std::pair<std::int64_t, std::int64_t> Batches::share(std::int64_t index) const {
  if (!samples_) return {1, 1};
  return {std::min(batch_size_, samples_->count() - index * batch_size_), samples_->count()};
}

Inputs Batches::batch(std::int64_t index) {
  if (!samples_) return npy_ ? Inputs(npy_->read()) : all_;
  const std::int64_t begin = index * batch_size_;
  const std::int64_t end = begin + share(index).first;
  return npy_ ? Inputs(npy_->read(samples_->dims().front().value_or(0), begin, end))
              : samples_->slice(begin, end - begin);
}

Inputs Batches::operator[](std::int64_t index) {
  return detail::map_tensors(batch(index), [&](const at::Tensor& t) {
    return t.to(device_, t.is_floating_point() ? floating_point_ : t.scalar_type());
  });
}

}  // namespace it3::apps
