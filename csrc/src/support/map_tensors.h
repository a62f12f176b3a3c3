#pragma once

#include <utility>
#include <vector>

#include <ATen/core/List.h>
#include <ATen/core/ivalue.h>

namespace it3::detail {

/// The value with each tensor in it, in tuples, lists and dicts too, replaced by what `function` makes of it.
template <typename Function>
c10::IValue map_tensors(const c10::IValue& value, const Function& function) {
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    return tensor.defined() ? c10::IValue(function(tensor)) : value;
  }
  if (value.isTuple()) {
    std::vector<c10::IValue> elements;
    for (const auto& element : value.toTupleRef().elements()) elements.push_back(map_tensors(element, function));
    auto type = value.toTupleRef().type();
    if (type->schema() != nullptr) return c10::ivalue::Tuple::createNamed(std::move(elements), std::move(type));
    return c10::ivalue::Tuple::create(std::move(elements));
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> tensors;
    for (const at::Tensor& tensor : value.toTensorVector()) {
      tensors.push_back(tensor.defined() ? function(tensor) : tensor);
    }
    return tensors;
  }
  if (value.isList()) {
    const c10::impl::GenericList list(value.toList().elementType());
    for (const c10::IValue& element : value.toListRef()) list.push_back(map_tensors(element, function));
    return list;
  }
  if (value.isGenericDict()) {
    const auto dict = value.toGenericDict();
    const c10::impl::GenericDict mapped(dict.keyType(), dict.valueType());
    for (const auto& item : dict) mapped.insert(item.key(), map_tensors(item.value(), function));
    return mapped;
  }
  return value;
}

template <typename Function>
std::vector<c10::IValue> map_tensors(const std::vector<c10::IValue>& values, const Function& function) {
  std::vector<c10::IValue> mapped;
  mapped.reserve(values.size());
  for (const auto& value : values) mapped.push_back(map_tensors(value, function));
  return mapped;
}

}  // namespace it3::detail
