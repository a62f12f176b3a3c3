#include <it3/inputs.h>

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <c10/core/InferenceMode.h>

namespace it3 {
namespace {

c10::IValue without_inference(const c10::IValue& value) {
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    return tensor.defined() && tensor.is_inference() ? tensor.clone() : tensor;
  }
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const auto& element : value.toTupleRef().elements()) elements.push_back(without_inference(element));
    return c10::ivalue::Tuple::create(std::move(elements));
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> tensors;
    for (const at::Tensor& tensor : value.toTensorVector()) tensors.push_back(without_inference(tensor).toTensor());
    return tensors;
  }
  return value;
}

}  // namespace

Inputs without_inference_tensors(const Inputs& inputs) {
  const c10::InferenceMode no_inference(false);
  Inputs usable = inputs;
  for (auto& value : usable.args) value = without_inference(value);
  for (auto& [name, value] : usable.kwargs) value = without_inference(value);
  return usable;
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
