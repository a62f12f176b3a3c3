#include <it3/backend/samples.h>

#include <sstream>

#include <ATen/ATen.h>
#include <c10/core/WrapDimMinimal.h>
#include <c10/util/Exception.h>

#include "network/map_inputs.h"
#include "support/all_finite.h"

namespace it3 {
namespace {

using Dims = std::vector<std::optional<std::int64_t>>;

[[noreturn]] void misfit(std::string_view why) {
  TORCH_CHECK_VALUE(
      false, "in_dims does not fit the inputs: ", why,
      ". Give one dimension for all tensors, or a tuple or dict like the inputs, with a dimension for each tensor and "
      "None for those that all samples share, as for torch.vmap");
}

void add_dims(const c10::IValue& value, const c10::IValue& in_dims, Dims& dims);

void add_dims_of_elements(c10::ArrayRef<c10::IValue> values, const c10::IValue& in_dims, Dims& dims) {
  const auto by_element = in_dims.isTuple() ? in_dims.toTupleRef().elements().vec() : in_dims.toListRef().vec();
  if (by_element.size() != values.size()) {
    misfit(c10::str("it has ", by_element.size(), " elements for ", values.size(), " inputs"));
  }
  for (std::size_t i = 0; i < by_element.size(); ++i) add_dims(values[i], by_element[i], dims);
}

c10::IValue at_key(const c10::IValue& in_dims, const c10::IValue& key) {
  const auto dict = in_dims.toGenericDict();
  if (!dict.contains(key)) misfit(c10::str("it has no entry for '", key, "'"));
  return dict.at(key);
}

/// The dimensions of the tensors in a value, in the order of map_tensors().
void add_dims(const c10::IValue& value, const c10::IValue& in_dims, Dims& dims) {
  if (in_dims.isInt() || in_dims.isNone()) {
    detail::map_tensors(value, [&](const at::Tensor& t) {
      const bool is_shared = in_dims.isNone() || t.dim() == 0;
      if (!is_shared && (in_dims.toInt() < -t.dim() || in_dims.toInt() >= t.dim())) {
        misfit(c10::str("a tensor of shape ", t.sizes(), " has no dimension ", in_dims.toInt()));
      }
      dims.push_back(is_shared ? std::nullopt : std::optional(c10::maybe_wrap_dim(in_dims.toInt(), t.dim())));
      return t;
    });
  } else if ((value.isTuple() || value.isList()) && (in_dims.isTuple() || in_dims.isList())) {
    add_dims_of_elements(
        value.isTuple() ? value.toTupleRef().elements().vec() : value.toListRef().vec(), in_dims, dims);
  } else if (value.isGenericDict() && in_dims.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) add_dims(item.value(), at_key(in_dims, item.key()), dims);
  } else {
    misfit(c10::str("it has a ", in_dims.tagKind(), " where the inputs have a ", value.tagKind()));
  }
}

Dims dims_as_told(const Inputs& inputs, const InDims& in_dims) {
  Dims dims;
  if (in_dims.isInt()) {
    for (const auto& value : inputs.args) add_dims(value, in_dims, dims);
    for (const auto& [name, value] : inputs.kwargs) add_dims(value, in_dims, dims);
    return dims;
  }
  if (in_dims.isGenericDict()) {
    if (!inputs.args.empty()) misfit("it is a dict, but there are positional inputs");
    for (const auto& [name, value] : inputs.kwargs) add_dims(value, at_key(in_dims, name), dims);
    return dims;
  }
  if (!in_dims.isTuple() && !in_dims.isList()) misfit(c10::str("it is a ", in_dims.tagKind()));
  if (!inputs.kwargs.empty()) misfit("it is a sequence, but there are keyword inputs");
  add_dims_of_elements(inputs.args, in_dims, dims);
  return dims;
}

Dims guessed_dims(const std::vector<at::Tensor>& tensors, const Layout& layout) {
  Dims dims(tensors.size());
  std::optional<std::int64_t> samples;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& t = tensors[i];
    if (t.dim() == 0) continue;
    const std::int64_t size = t.size(layout.batch_of(t.dim()));
    TORCH_CHECK_VALUE(
        !samples || size != *samples, "it is not clear whether a tensor of shape ", t.sizes(), " in the inputs holds ",
        samples.value_or(0),
        " samples, as another one does, or is shared by all samples; give in_dims, as torch.vmap takes it: 0 "
        "if all tensors hold samples in dimension 0, or a tuple or dict with a number for each, and None for what is "
        "shared");
    if (!samples) {
      samples = size;
      dims[i] = layout.batch_of(t.dim());
    }
  }
  return dims;
}

}  // namespace

Samples::Samples(Inputs inputs, const std::optional<InDims>& in_dims, const Layout& prediction_layout)
    : inputs_(std::move(inputs)) {
  const std::vector<at::Tensor> tensors = detail::tensors_in(inputs_);
  dims_ = in_dims ? dims_as_told(inputs_, *in_dims) : guessed_dims(tensors, prediction_layout);
  std::optional<std::int64_t> count;
  for (std::size_t i = 0; i < dims_.size(); ++i) {
    const auto dim = dims_[i];
    if (!dim) continue;
    const std::int64_t size = tensors[i].size(*dim);
    if (count && size != *count) {
      misfit(
          c10::str("a tensor of shape ", tensors[i].sizes(), " has ", size, " samples, but another one has ", *count));
    }
    count = size;
  }
  TORCH_CHECK_VALUE(
      count,
      "the inputs have no tensor that holds samples; give tensors with a sample dimension, or say by in_dims which "
      "dimension holds the samples");
  count_ = *count;
}

template <typename Function>
Inputs Samples::map(const Function& function) const {
  std::size_t i = 0;
  return detail::map_tensors(inputs_, [&](const at::Tensor& t) { return function(t, dims_[i++]); });
}

Inputs Samples::slice(std::int64_t begin, std::int64_t count) const {
  return map(
      [&](const at::Tensor& t, std::optional<std::int64_t> dim) { return dim ? t.narrow(*dim, begin, count) : t; });
}

Inputs Samples::select(const at::Tensor& indices) const {
  return map([&](const at::Tensor& t, std::optional<std::int64_t> dim) {
    return dim ? t.index_select(*dim, indices.to(t.device())) : t;
  });
}

Inputs Samples::stack(std::int64_t begin, std::int64_t count) const {
  return map([&](const at::Tensor& t, std::optional<std::int64_t> dim) {
    if (dim) return t.narrow(*dim, begin, count).movedim(*dim, 0).unsqueeze(*dim + 1);
    std::vector<std::int64_t> sizes = t.sizes().vec();
    sizes.insert(sizes.begin(), count);
    return t.expand(sizes);
  });
}

at::Tensor Samples::are_finite(bool spares_masks) const {
  at::Tensor all = at::ones({count_}, at::kBool);
  map([&](const at::Tensor& t, std::optional<std::int64_t> dim) {
    if (!t.is_floating_point() || detail::are_all_finite(t.detach())) return t;
    at::Tensor finite = t.detach().isfinite();
    if (spares_masks) finite = finite.logical_or(t.detach().isneginf());
    const at::Tensor by_element = dim ? finite.movedim(*dim, 0).unsqueeze(1).flatten(1).all(1) : finite.all();
    all = all.logical_and(by_element.cpu());
    return t;
  });
  return all;
}

}  // namespace it3
