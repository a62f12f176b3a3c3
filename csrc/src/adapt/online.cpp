#include <it3/backend/online.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "network/starts.h"
#include "support/plain_memory.h"
#include "support/write_all.h"

namespace it3 {
namespace {

using detail::Starts;

std::vector<std::string> names_of(const std::vector<NamedParameter>& parameters) {
  std::vector<std::string> names;
  names.reserve(parameters.size());
  for (const auto& parameter : parameters) names.push_back(parameter.name);
  return names;
}

template <typename Parameters>
auto find(const Parameters& parameters, const std::string& name) {
  return std::find_if(parameters.begin(), parameters.end(), [&](const auto& p) { return p.name == name; });
}

Starts& starts() { return Starts::of_all_models(); }

/// Puts copies in the places of tensors. Where they can lie in one block, as cloning each takes as long as a step of a
/// small network.
void own_each(std::vector<at::Tensor>& tensors) {
  const auto is_plain = [&](const at::Tensor& t) {
    return t.defined() && detail::is_plain(t) && t.scalar_type() == tensors.front().scalar_type();
  };
  if (!std::all_of(tensors.begin(), tensors.end(), is_plain)) {
    for (auto& t : tensors) {
      if (t.defined()) t = t.clone();
    }
  } else if (const std::int64_t total = detail::elements_of(tensors); total > 0) {
    const at::Tensor block = at::detail::empty_cpu({total}, tensors.front().scalar_type());
    std::vector<at::Tensor> copies = detail::views_like(tensors, block);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].numel() == 0) continue;
      std::memcpy(copies[i].mutable_data_ptr(), tensors[i].const_data_ptr(), tensors[i].nbytes());
    }
    tensors = std::move(copies);
  }
}

double length_of(const at::Tensor& t) { return t.detach().norm().item<double>(); }

}  // namespace

bool Online::is_current() const {
  return std::all_of(state_.start.begin(), state_.start.end(), [](const Start& start) {
    return start.number == 0 || starts().counts(start.parameter, start.number);
  });
}

bool Online::adopt(const std::vector<NamedParameter>& parameters) {
  for (auto& start : state_.start) {
    if (start.number != 0) continue;
    const auto parameter = find(parameters, start.name);
    if (parameter == parameters.end()) continue;
    if (parameter->tensor.sizes() != start.value.sizes()) return false;
    starts().adopt(parameter->tensor, start.value);
    const auto adopted = starts().find(parameter->tensor);
    if (!adopted) return false;
    start = {start.name, adopted->value, parameter->tensor.unsafeGetTensorImpl(), adopted->number};
  }
  return true;
}

Online::CallState Online::resume(const std::vector<NamedParameter>& adapted, OptimizerKind optimizer) {
  starts().end_changed(adapted);
  if (!adopt(adapted) || !is_current()) *this = {};
  CallState call_state;
  const auto begun = starts().begin(adapted);
  for (std::size_t i = 0; i < adapted.size(); ++i) {
    const auto known = find(state_.start, adapted[i].name);
    const Start now{adapted[i].name, begun[i].value, adapted[i].tensor.unsafeGetTensorImpl(), begun[i].number};
    if (known == state_.start.end()) {
      state_.start.push_back(now);
    } else if (known->number != now.number) {  // another tensor has the name now
      *this = {};
      return resume(adapted, optimizer);
    }
    call_state.start.push_back(begun[i].value);
  }
  if (names_of(adapted) != state_.stepped) state_.average = {};
  if (optimizer != state_.optimizer_name || names_of(adapted) != state_.stepped) state_.optimizer = {};
  state_.optimizer_name = optimizer;
  call_state.names = names_of(adapted);  // now, as keep() must not fail
  // Given by value: a call that fails must not change what the next one starts with. Nothing is written to counters of
  // steps, which may be one for many parameters.
  call_state.optimizer = state_.optimizer;
  call_state.average = state_.average;
  for (auto* list :
       {&call_state.optimizer.momentum, &call_state.optimizer.squares, &call_state.optimizer.masters,
        &call_state.average}) {
    own_each(*list);
  }
  return call_state;
}

void Online::keep(const std::vector<NamedParameter>& adapted, CallState call_state, std::optional<double> loss) {
  starts().note(adapted);
  state_.optimizer = std::move(call_state.optimizer);
  state_.average = std::move(call_state.average);
  state_.stepped = std::move(call_state.names);
  if (loss) state_.loss_average = loss_average_with(*loss);
}

Online::LossAverage Online::loss_average_with(double loss) const {
  if (!state_.loss_average) return {loss, loss};
  const double average = 0.9 * state_.loss_average->average + 0.1 * loss;
  return {average, std::min(average, state_.loss_average->least)};
}

bool Online::has_collapsed(double loss, double recovery_factor) const {
  return state_.loss_average && loss_average_with(loss).average > recovery_factor * state_.loss_average->least;
}

Online::State Online::state() const { return is_current() ? state_ : State(); }

Drift Online::drift(const Network& network) const {
  const auto turn = network.take_turn();
  const auto parameters = network.parameters();
  const auto updating = ModelLock(tensors_of(parameters)).wait(UpgradeMutex::Use::updating);  // as calls that keep
  if (starts().has_changed(parameters)) return {};                                            // a new start
  Drift drift;
  double whole = 0;
  for (const auto& parameter : parameters) {
    at::Tensor start;
    if (const auto known = starts().find(parameter.tensor)) {
      start = known->value;
    } else if (
        const auto own = find(state_.start, parameter.name);
        own != state_.start.end() && own->number == 0 && own->value.sizes() == parameter.tensor.sizes()) {
      start = own->value;  // of a file, before the first call
    } else {
      continue;
    }
    const double change = length_of(parameter.tensor.detach() - start);
    drift.by_parameter.emplace_back(parameter.name, change);
    drift.distance = std::hypot(drift.distance, change);
    whole = std::hypot(whole, length_of(start));
  }
  drift.relative = whole > 0 ? drift.distance / whole : 0;
  return drift;
}

void Online::check_outside_of_calls(const Network& network) {
  TORCH_CHECK(
      !network.is_in_use_here(),
      "adapt() with copy_model=False, or reset(), was called inside of another call on the same model, as by its "
      "embedder or distance, and would change weights that the outer call computes with; call it before or after the "
      "outer call");
}

void Online::go_back(const Network& network, State state, const std::vector<at::Tensor>& weights) {
  const auto parameters = network.parameters();
  const auto alone = ModelLock(tensors_of(parameters)).wait(UpgradeMutex::Use::alone);
  std::vector<at::Tensor> tensors, values;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].tensor.is_inference()) continue;
    tensors.push_back(parameters[i].tensor);
    values.push_back(weights[i]);
  }
  detail::write_all(tensors, values);
  state_ = std::move(state);
  for (auto& start : state_.start) start.number = 0;  // of a start that has ended, and begins again
  adopt(parameters);
  starts().note(parameters);
}

void Online::reset(const Network& network) {
  const auto turn = network.take_turn();
  const auto parameters = network.parameters();
  const auto updating = ModelLock(tensors_of(parameters)).wait(UpgradeMutex::Use::updating);
  const auto alone = ModelLock(tensors_of(parameters)).wait(UpgradeMutex::Use::alone);
  if (adopt(parameters)) {
    starts().end_changed(parameters);
    starts().go_back(parameters);
  }
  *this = {};
}

}  // namespace it3
