#include <it3/inputs.h>

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <c10/core/InferenceMode.h>

#include "map_tensors.h"

namespace it3 {

Inputs without_inference_tensors(const Inputs& inputs) {
  const c10::InferenceMode no_inference(false);
  return detail::map_tensors(inputs, [](const at::Tensor& t) { return t.is_inference() ? t.clone() : t; });
}

Inputs as_constants(const Inputs& inputs) {
  const c10::InferenceMode no_inference(false);
  return detail::map_tensors(inputs, [](const at::Tensor& t) {
    if (t.is_inference()) return t.clone();
    return t.requires_grad() ? t.detach() : t;
  });
}

at::Tensor first_tensor(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor();
  std::vector<c10::IValue> elements;
  if (value.isTuple()) {
    const auto& tuple = value.toTupleRef().elements();
    elements.assign(tuple.begin(), tuple.end());
  } else if (value.isList()) {
    elements = value.toListRef().vec();
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) elements.push_back(item.value());
  }
  for (const auto& element : elements) {
    at::Tensor found = first_tensor(element);
    if (found.defined()) return found;
  }
  return {};
}

}  // namespace it3
