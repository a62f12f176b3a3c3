#include <it3/online.h>

#include <algorithm>
#include <cmath>

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

void own_each(std::vector<at::Tensor>& tensors) {
  for (auto& t : tensors) {
    if (t.defined()) t = t.clone();
  }
}

double length_of(const at::Tensor& t) { return t.detach().norm().item<double>(); }

}  // namespace

Online::Memory Online::resume(const std::vector<NamedParameter>& adapted, OptimizerName optimizer) {
  auto& start = state_.start;
  const bool is_touched = std::any_of(adapted.begin(), adapted.end(), [&](const auto& parameter) {
    const auto known = find(start, parameter.name);
    return known != start.end() && !is_untouched(*known, parameter.tensor);
  });
  if (is_touched) *this = {};
  for (const auto& parameter : adapted) {
    if (find(start, parameter.name) == start.end()) {
      const at::Tensor& weight = parameter.tensor;
      start.push_back({parameter.name, weight.detach().clone(), weight._version(), address_of(weight)});
    }
  }
  if (names_of(adapted) != state_.stepped) state_.average = {};
  if (optimizer != state_.optimizer_name || names_of(adapted) != state_.stepped) state_.optimizer = {};
  state_.optimizer_name = optimizer;
  // Given by value: a call that fails must not change what the next one starts with.
  Memory memory{state_.optimizer, {}, state_.average};
  for (auto* list :
       {&memory.optimizer.momentum, &memory.optimizer.squares, &memory.optimizer.steps, &memory.optimizer.masters,
        &memory.average}) {
    own_each(*list);
  }
  for (const auto& parameter : adapted) memory.start.push_back(find(start, parameter.name)->value);
  return memory;
}

void Online::keep(const std::vector<NamedParameter>& adapted, Memory memory, std::optional<double> loss) {
  for (auto& start : state_.start) {
    const auto parameter = find(adapted, start.name);
    if (parameter == adapted.end()) continue;
    start.version = parameter->tensor._version();
    start.address = address_of(parameter->tensor);
  }
  state_.optimizer = std::move(memory.optimizer);
  state_.average = std::move(memory.average);
  state_.stepped = names_of(adapted);
  if (loss) state_.course = course_with(*loss);
}

Online::Course Online::course_with(double loss) const {
  if (!state_.course) return {loss, loss};
  const double average = 0.9 * state_.course->average + 0.1 * loss;
  return {average, std::min(average, state_.course->least)};
}

bool Online::has_collapsed(double loss, double recovery_factor) const {
  return state_.course && course_with(loss).average > recovery_factor * state_.course->least;
}

Drift Online::drift(const Network& network) const {
  Drift drift;
  double whole = 0;
  const auto parameters = network.parameters();
  for (const auto& start : state_.start) {
    const auto parameter = find(parameters, start.name);
    if (parameter == parameters.end() || !is_untouched(start, parameter->tensor)) return {};  // a new start
    const double change = length_of(parameter->tensor.detach() - start.value);
    drift.by_parameter.emplace_back(start.name, change);
    drift.distance = std::hypot(drift.distance, change);
    whole = std::hypot(whole, length_of(start.value));
  }
  drift.relative = whole > 0 ? drift.distance / whole : 0;
  return drift;
}

void Online::go_back(const Network& network, State state, const std::vector<at::Tensor>& weights) {
  const at::NoGradGuard no_grad;
  const auto parameters = network.parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].tensor.detach().copy_(weights[i]);
  for (auto& start : state.start) {
    const auto parameter = find(parameters, start.name);
    if (parameter != parameters.end()) start.version = parameter->tensor._version();
  }
  state_ = std::move(state);
}

void Online::reset(const Network& network) {
  const at::NoGradGuard no_grad;
  const auto parameters = network.parameters();
  const bool is_touched = std::any_of(state_.start.begin(), state_.start.end(), [&](const auto& start) {
    const auto parameter = find(parameters, start.name);
    return parameter == parameters.end() || !is_untouched(start, parameter->tensor);
  });
  if (!is_touched) {
    // On an alias, which unlike a leaf that requires a gradient may be written to.
    for (const auto& start : state_.start) find(parameters, start.name)->tensor.detach().copy_(start.value);
  }
  *this = {};
}

}  // namespace it3
