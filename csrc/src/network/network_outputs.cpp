#include <it3/backend/network_outputs.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "network/map_inputs.h"
#include "support/all_finite.h"
#include "support/as_real.h"

namespace it3 {
namespace {

using detail::as_real;

/// Something else in the place of features, which normalization does not undo.
at::Tensor other_features(const at::Tensor& features) {
  const at::Tensor pattern = at::arange(features.numel(), features.options().requires_grad(false)).cos();
  return features * 1.5 + 0.1 * pattern.reshape(features.sizes());
}

/// Far from rounding, and far from what dropped gradients or another precision make.
double tolerance_for(const at::Tensor& t) {
  switch (c10::toRealValueType(t.scalar_type())) {
    case at::kDouble: return 1e-8;
    case at::kFloat: return t.is_cuda() ? 1e-2 : 1e-4;  // cuDNN has algorithms that round more
    default: return 3e-2;
  }
}

double norm_of(const at::Tensor& t) { return t.to(at::kDouble).norm().item<double>(); }

/// The Euclidean distance of each tensor from the right one, in parts of its norm; infinite where it is of another
/// kind. What is small beside all others, as gradients that are zero but for rounding, may differ more.
std::vector<double> distances(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size()) return {infinity};
  double all = 0;
  for (const at::Tensor& t : expected) all = t.defined() ? std::hypot(all, norm_of(as_real(t))) : all;
  std::vector<double> found;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const at::Tensor &a = actual[i], &b = expected[i];
    if (!a.defined() && !b.defined()) {
      found.push_back(0);
    } else if (a.defined() != b.defined() || a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) {
      found.push_back(infinity);
    } else {
      const double distance = norm_of(as_real(a) - as_real(b));
      found.push_back(distance == 0 ? 0 : distance / std::max(norm_of(as_real(b)), 0.01 * all));
    }
  }
  return found;
}

/// How far each output is from the one that it is compared with, see distances().
struct NudgedOutputs {
  std::vector<double> predictions, gradients, moved;
};

/// @param nudged  how far a nudge has moved each, see distances(); empty if that is not known
bool are_close(
    const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected, const std::vector<double>& nudged) {
  const std::vector<double> found = distances(actual, expected);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double tolerance = i < actual.size() && actual[i].defined() ? tolerance_for(actual[i]) : 0;
    const double rounding = i < nudged.size() ? std::min(10 * nudged[i], 1e-2) : 0;
    if (!(found[i] <= std::max(tolerance, rounding))) return false;
  }
  return true;
}

/// How far a nudge has moved the outputs; nothing if one of them has jumped.
NudgedOutputs moved_by_nudge(const NetworkOutputs& nudged, const NetworkOutputs& expected) {
  constexpr double jump = 5e-3;
  NudgedOutputs moved{
      distances(nudged.predictions, expected.predictions), distances(nudged.gradients, expected.gradients),
      distances(nudged.moved, expected.moved)};
  for (const auto* part : {&moved.predictions, &moved.gradients}) {
    if (std::any_of(part->begin(), part->end(), [](double distance) { return !(distance <= jump); })) return {};
  }
  return moved;
}

/// The same inputs, each number off by as much as rounding makes.
Inputs nudged(const Inputs& inputs) {
  return detail::map_tensors(inputs, [](const at::Tensor& t) {
    if (!t.is_floating_point()) return t.detach().clone();
    const double rounding = t.scalar_type() == at::kDouble  ? std::numeric_limits<double>::epsilon()
                            : t.scalar_type() == at::kFloat ? std::numeric_limits<float>::epsilon()
                                                            : 1e-3;
    const at::Tensor pattern = at::arange(t.numel(), t.options().dtype(at::kDouble).requires_grad(false)).cos();
    return (t.detach() * (1 + 2 * rounding * pattern.reshape(t.sizes()))).to(t.scalar_type());
  });
}

/// How outputs differ beside their gradients. Those of weights that have moved say nothing where deep networks
/// overflow.
std::string other_difference(
    const NetworkOutputs& actual, const NetworkOutputs& expected, const NudgedOutputs& rounding) {
  if (!are_close(actual.predictions, expected.predictions, rounding.predictions)) return "predicts something else";
  if (!detail::are_all_finite(expected.moved.front())) return "";
  if (!are_close({actual.moved.front()}, {expected.moved.front()}, rounding.moved)) {
    return "predicts something else when the weights change";
  }
  return are_close(actual.moved, expected.moved, rounding.moved) ? "" : "writes to its weights";
}

/// How many of several outputs count: the later ones if they are finite.
std::size_t count_of(const std::vector<NetworkOutputs>& expected) {
  std::size_t count = 1;
  const auto is_finite = [](const NetworkOutputs& outputs) {
    return std::all_of(outputs.predictions.begin(), outputs.predictions.end(), detail::are_all_finite);
  };
  while (count < expected.size() && is_finite(expected[count])) ++count;
  return count;
}

constexpr std::string_view other_gradients = "has other gradients";

/// @param nudged  those of the right network on nudged() inputs; null to allow no more than usual rounding
std::string difference_of(
    const std::vector<NetworkOutputs>& actual,
    const std::vector<NetworkOutputs>& expected,
    const std::vector<NetworkOutputs>* nudged = nullptr) {
  bool has_other_gradients = false;
  for (std::size_t i = 0; i < count_of(expected); ++i) {
    const NudgedOutputs rounding = nudged != nullptr ? moved_by_nudge((*nudged)[i], expected[i]) : NudgedOutputs();
    if (std::string how = other_difference(actual[i], expected[i], rounding); !how.empty()) return how;
    has_other_gradients |= !are_close(actual[i].gradients, expected[i].gradients, rounding.gradients);
  }
  return has_other_gradients ? std::string(other_gradients) : "";
}

/// Whether gradients differ by no more than what some numbers make that are on another side.
bool differ_by_turns(const std::vector<NetworkOutputs>& actual, const std::vector<NetworkOutputs>& expected) {
  constexpr double most = 0.1;
  for (std::size_t i = 0; i < count_of(expected); ++i) {
    const std::vector<double> found = distances(actual[i].gradients, expected[i].gradients);
    if (!std::all_of(found.begin(), found.end(), [](double distance) { return distance <= most; })) return false;
  }
  return true;
}

/// Whether outputs with other weights can tell as much as those with the weights as they are: gradients have not
/// vanished, and what was finite still is.
bool says_as_much(const std::vector<NetworkOutputs>& elsewhere, const std::vector<NetworkOutputs>& expected) {
  if (count_of(elsewhere) != count_of(expected)) return false;
  for (std::size_t i = 0; i < count_of(expected); ++i) {
    const auto is_finite = [](const NetworkOutputs& outputs) { return detail::are_all_finite(outputs.moved.front()); };
    if (is_finite(elsewhere[i]) != is_finite(expected[i])) return false;
    for (std::size_t k = 0; k < expected[i].gradients.size(); ++k) {
      const at::Tensor &there = elsewhere[i].gradients[k], &here = expected[i].gradients[k];
      if (there.defined() && here.defined() && norm_of(as_real(there)) < 0.5 * norm_of(as_real(here))) return false;
    }
  }
  return true;
}

}  // namespace

Inputs copies_of(const Inputs& inputs) {
  return detail::map_tensors(inputs, [](const at::Tensor& t) { return t.detach().clone(); });
}

void move(const std::vector<at::Tensor>& weights, double by) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& weight : weights) {
    // Along the last dimension, so that it takes no memory.
    const std::int64_t size = weight.dim() == 0 ? 1 : weight.size(-1);
    const at::Tensor pattern = at::arange(size, weight.options().dtype(at::kDouble).requires_grad(false)).cos();
    // What is added soon makes deep networks overflow.
    weight.mul_(1 + by).add_(weight.dim() == 0 ? pattern[0] : pattern.to(weight.scalar_type()), 0.16 * by * by);
  }
}

void vary(const std::vector<at::Tensor>& weights, double by) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& weight : weights) {
    const std::int64_t size = weight.dim() == 0 ? 1 : weight.size(-1);
    const at::Tensor pattern = at::arange(size, weight.options().dtype(at::kDouble).requires_grad(false)).cos();
    const at::Tensor factor = 1 + by * (weight.dim() == 0 ? pattern[0] : pattern);
    weight.mul_(factor.to(weight.scalar_type()));
  }
}

NetworkOutputs outputs_of(
    Network& network, const Inputs& inputs, const std::vector<NamedParameter>& parameters, double varied_by) {
  const Inject inject(other_features);
  NetworkOutputs outputs;
  {
    const auto copy = network.checkout(parameters);
    if (varied_by != 0) vary(copy->leaves(), varied_by);
    const FirstPass first = copy->prepare(copies_of(inputs));
    outputs.predictions.push_back(copy->resume(copies_of(inputs), first, nullptr));
    outputs.predictions.push_back(copy->resume(copies_of(inputs), first, &inject));
    at::Tensor sum;
    for (const at::Tensor& prediction : outputs.predictions) {
      const at::Tensor flat = as_real(prediction).flatten();
      const at::Tensor part = (flat * at::arange(flat.numel(), flat.options().requires_grad(false)).cos()).sum();
      sum = sum.defined() ? sum + part : part;
    }
    if (sum.requires_grad() && !parameters.empty()) {
      outputs.gradients = torch::autograd::grad({sum}, copy->leaves(), {}, std::nullopt, false, /*allow_unused=*/true);
    }
    for (at::Tensor& prediction : outputs.predictions) prediction = prediction.detach().clone();
    move(copy->leaves());
    outputs.moved = {copy->resume(copies_of(inputs), copy->prepare(copies_of(inputs)), nullptr).detach().clone()};
    for (const at::Tensor& weight : copy->leaves()) {
      outputs.moved.push_back(as_real(weight.detach()).norm().nan_to_num());
    }
  }
  const at::NoGradGuard no_grad;
  const auto copy = network.checkout({});
  outputs.predictions.push_back(copy->resume(copies_of(inputs), copy->prepare(copies_of(inputs)), nullptr).clone());
  return outputs;
}

std::string difference(
    const std::vector<NetworkOutputs>& actual,
    const std::vector<NetworkOutputs>& expected,
    const Inputs& inputs,
    const OutputsFor& actual_for,
    const OutputsFor& expected_for) {
  std::string how = difference_of(actual, expected);
  if (how.empty()) return how;
  const std::vector<NetworkOutputs> of_nudged = expected_for(nudged(inputs), 0);
  how = difference_of(actual, expected, &of_nudged);
  if (how != other_gradients || !differ_by_turns(actual, expected)) return how;
  for (const double varied_by : {0.03, 0.05}) {
    const std::vector<NetworkOutputs> elsewhere = expected_for(inputs, varied_by);
    if (says_as_much(elsewhere, expected) && difference_of(actual_for(inputs, varied_by), elsewhere).empty()) return "";
  }
  return how;
}

}  // namespace it3
