#include <it3/online.h>

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace it3 {
namespace {

std::vector<std::string> names_of(const std::vector<NamedParameter>& parameters) {
  std::vector<std::string> names;
  names.reserve(parameters.size());
  for (const auto& parameter : parameters) names.push_back(parameter.name);
  return names;
}

const void* address_of(const at::Tensor& parameter) { return parameter.unsafeGetTensorImpl()->storage().data(); }

bool is_untouched(const Online::Start& start, const at::Tensor& parameter) {
  if (start.address == nullptr) return start.value.sizes() == parameter.sizes();
  return start.address == address_of(parameter) && start.version == parameter._version();
}

template <typename Parameters>
auto find(const Parameters& parameters, const std::string& name) {
  return std::find_if(parameters.begin(), parameters.end(), [&](const auto& p) { return p.name == name; });
}

}  // namespace

OptimizerState Online::resume(const std::vector<NamedParameter>& adapted, OptimizerName optimizer) {
  const bool is_touched = std::any_of(adapted.begin(), adapted.end(), [&](const auto& parameter) {
    const auto known = find(start_, parameter.name);
    return known != start_.end() && !is_untouched(*known, parameter.tensor);
  });
  if (is_touched) *this = {};
  for (const auto& parameter : adapted) {
    if (find(start_, parameter.name) == start_.end()) {
      const at::Tensor& weight = parameter.tensor;
      start_.push_back({parameter.name, weight.detach().clone(), weight._version(), address_of(weight)});
    }
  }
  if (optimizer != optimizer_ || names_of(adapted) != stepped_) state_ = {};
  optimizer_ = optimizer;
  // Given by value: a call that fails must not change what the next one starts with.
  OptimizerState state = state_;
  for (auto* list : {&state.momentum, &state.squares, &state.steps, &state.masters}) {
    for (auto& memory : *list) {
      if (memory.defined()) memory = memory.clone();
    }
  }
  return state;
}

void Online::keep(const std::vector<NamedParameter>& adapted, OptimizerState state) {
  for (auto& start : start_) {
    const auto parameter = find(adapted, start.name);
    if (parameter == adapted.end()) continue;
    start.version = parameter->tensor._version();
    start.address = address_of(parameter->tensor);
  }
  state_ = std::move(state);
  stepped_ = names_of(adapted);
}

void Online::reset(const Network& network) {
  const at::NoGradGuard no_grad;
  const auto parameters = network.parameters();
  const bool is_touched = std::any_of(start_.begin(), start_.end(), [&](const auto& start) {
    const auto parameter = find(parameters, start.name);
    return parameter == parameters.end() || !is_untouched(start, parameter->tensor);
  });
  if (!is_touched) {
    // On an alias, which unlike a leaf that requires a gradient may be written to.
    for (const auto& start : start_) find(parameters, start.name)->tensor.detach().copy_(start.value);
  }
  *this = {};
}

Online Online::restore(
    std::vector<Start> start, OptimizerState state, std::vector<std::string> stepped, OptimizerName optimizer) {
  Online online;
  online.start_ = std::move(start);
  online.state_ = std::move(state);
  online.stepped_ = std::move(stepped);
  online.optimizer_ = optimizer;
  return online;
}

}  // namespace it3
