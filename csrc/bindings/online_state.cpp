#include "online_state.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace it3::python {
namespace {

using MaybeTensors = std::vector<std::optional<at::Tensor>>;

MaybeTensors to_maybe(const std::vector<at::Tensor>& tensors) {
  MaybeTensors maybe;
  for (const auto& t : tensors) maybe.push_back(t.defined() ? std::optional(t) : std::nullopt);
  return maybe;
}

std::vector<at::Tensor> from_maybe(py::handle saved) {
  std::vector<at::Tensor> tensors;
  for (const auto& maybe : saved.cast<MaybeTensors>()) tensors.push_back(maybe.value_or(at::Tensor()));
  return tensors;
}

}  // namespace

py::tuple state_of(const Online& online) {
  const Online::State state = online.state();
  py::list start;
  for (const auto& s : state.start) start.append(py::make_tuple(s.name, s.value));
  const OptimizerState& optimizer = state.optimizer;
  std::optional<std::pair<double, double>> loss_average;
  if (state.loss_average) loss_average = {state.loss_average->average, state.loss_average->least};
  return py::make_tuple(
      start, to_maybe(optimizer.momentum), to_maybe(optimizer.squares), to_maybe(optimizer.steps),
      to_maybe(optimizer.masters), state.stepped, static_cast<int>(state.optimizer_name), state.average, loss_average);
}

Online online_from(const py::tuple& saved) {
  Online::State state;
  for (const py::handle s : saved[0]) {
    const auto pair = s.cast<std::pair<std::string, at::Tensor>>();
    state.start.push_back({pair.first, pair.second});
  }
  state.optimizer = {from_maybe(saved[1]), from_maybe(saved[2]), from_maybe(saved[3]), from_maybe(saved[4])};
  state.stepped = saved[5].cast<std::vector<std::string>>();
  state.optimizer_name = static_cast<OptimizerKind>(saved[6].cast<int>());
  state.average = saved[7].cast<std::vector<at::Tensor>>();
  if (const auto loss_average = saved[8].cast<std::optional<std::pair<double, double>>>()) {
    state.loss_average = {loss_average->first, loss_average->second};
  }
  return Online(std::move(state));
}

}  // namespace it3::python
