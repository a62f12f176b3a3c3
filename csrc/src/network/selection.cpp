#include <it3/backend/selection.h>

#include <fnmatch.h>

#include <algorithm>

#include <c10/util/Exception.h>

#include "support/nearest_name.h"
#include "support/write_count.h"

namespace it3 {
namespace {

bool matches(const std::string& pattern, const NamedParameter& parameter) {
  if (pattern == "all") return true;
  if (pattern == "norm") return parameter.of_normalization;
  for (std::string name = parameter.name;; name.resize(name.rfind('.'))) {
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return true;
    if (name.find('.') == std::string::npos) return false;
  }
}

}  // namespace

std::vector<at::Tensor> tensors_of(const std::vector<NamedParameter>& parameters) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(parameters.size());
  for (const auto& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

std::vector<NamedParameter> select_parameters(
    const std::vector<NamedParameter>& parameters, const std::vector<std::string>& patterns) {
  std::vector<NamedParameter> trainable;
  std::copy_if(parameters.begin(), parameters.end(), std::back_inserter(trainable), [](const auto& parameter) {
    return parameter.tensor.requires_grad();
  });
  TORCH_CHECK_VALUE(
      !trainable.empty(), "the model has no trainable parameters, so there is nothing to adapt: ",
      parameters.empty() ? "it has no floating-point parameters at all (a frozen TorchScript module has none)"
                         : "all its parameters have requires_grad=False; call requires_grad_(True) on some");

  std::vector<bool> chosen(trainable.size(), false);
  for (const auto& pattern : patterns) {
    bool found = false;
    for (std::size_t i = 0; i < trainable.size(); ++i) {
      if (!matches(pattern, trainable[i])) continue;
      chosen[i] = true;
      found = true;
    }
    if (found) continue;
    TORCH_CHECK_VALUE(
        pattern != "norm",
        "parameters is 'norm', but the model has no trainable parameters in normalization layers; use 'all', or a "
        "pattern of names");
    const bool is_frozen = std::any_of(
        parameters.begin(), parameters.end(), [&](const auto& parameter) { return matches(pattern, parameter); });
    TORCH_CHECK_VALUE(
        !is_frozen, "parameters has '", pattern,
        "', but all that it selects have requires_grad=False; call "
        "requires_grad_(True) on them, or give another pattern");
    std::vector<std::string> names;
    names.reserve(trainable.size());
    for (const auto& parameter : trainable) names.push_back(parameter.name);
    TORCH_CHECK_VALUE(
        false, "parameters has '", pattern, "', which selects no parameter of the model; did you mean '",
        detail::nearest_name(pattern, names),
        "'? Accepted are 'all', 'norm', and patterns of parameter or module names");
  }

  std::vector<NamedParameter> selected;
  for (std::size_t i = 0; i < trainable.size(); ++i) {
    if (!chosen[i]) continue;
    TORCH_CHECK_VALUE(
        detail::counts_writes(trainable[i].tensor), "the parameter '", trainable[i].name,
        "' was created in inference mode and cannot be differentiated; create the model outside of it");
    selected.push_back(trainable[i]);
  }
  return selected;
}

}  // namespace it3
