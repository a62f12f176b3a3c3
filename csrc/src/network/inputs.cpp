#include <it3/backend/inputs.h>

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "network/map_inputs.h"
#include "support/nearest_name.h"
#include "support/write_count.h"

namespace it3 {

at::Tensor single_tensor(const Inputs& inputs) {
  const bool has_one = inputs.args.size() == 1 && inputs.args[0].isTensor() && inputs.args[0].toTensor().defined();
  if (has_one && inputs.kwargs.empty()) return inputs.args[0].toTensor();
  std::vector<std::string> keywords;
  keywords.reserve(inputs.kwargs.size());
  for (const auto& [name, value] : inputs.kwargs) keywords.push_back(name);
  std::vector<std::string> kinds;
  kinds.reserve(inputs.args.size());
  for (const auto& value : inputs.args) {
    const bool is_undefined = value.isTensor() && !value.toTensor().defined();
    kinds.push_back(is_undefined ? "undefined Tensor" : value.tagKind());
  }
  TORCH_CHECK_VALUE(
      false, "this model is called with one tensor, but the inputs are ", kinds.size(), " positional (",
      detail::join(kinds), ") and ", keywords.size(), " keywords (", detail::join(keywords),
      "); give one tensor, or make the it3::ModuleNetwork with a function that calls the model with all of them");
}

Inputs without_inference_tensors(const Inputs& inputs) {
  const c10::InferenceMode no_inference(false);
  return detail::map_tensors(inputs, [](const at::Tensor& t) { return detail::counts_writes(t) ? t : t.clone(); });
}

Inputs as_constants(const Inputs& inputs) {
  const c10::InferenceMode no_inference(false);
  return detail::map_tensors(inputs, [](const at::Tensor& t) {
    if (!detail::counts_writes(t)) return t.clone();
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
