#include <it3/backend/network_outputs.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string_view>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "network/map_inputs.h"
#include "support/all_finite.h"
#include "support/as_real.h"

namespace it3 {
namespace {

using detail::as_real;

/// Numbers between -1 and 1 on the tensor's device, in double precision, as half precision cannot count that many.
at::Tensor cosines(std::int64_t count, const at::Tensor& like) {
  return at::arange(count, like.options().dtype(at::kDouble).requires_grad(false)).cos();
}

/// As many as the tensor has elements, of its dtype.
at::Tensor cosines_for(const at::Tensor& t) { return cosines(t.numel(), t).to(t.scalar_type()); }

/// Something else in the place of features, which normalization does not undo.
at::Tensor other_features(const at::Tensor& features) {
  return features * 1.5 + 0.1 * cosines_for(features).reshape(features.sizes());
}

/// Far from rounding, and far from what dropped gradients or another precision make.
double tolerance_for(const at::Tensor& t) {
  switch (c10::toRealValueType(t.scalar_type())) {
    case at::kDouble: return 1e-8;
    case at::kFloat: return t.is_cuda() ? 1e-2 : 1e-4;  // cuDNN has algorithms that round more
    default: return 3e-2;
  }
}

double norm_of(const at::Tensor& t) { return t.defined() ? as_real(t).to(at::kDouble).norm().item<double>() : 0; }

/// What is small beside all others, as gradients that are zero but for rounding, is compared with this part of them.
double least_norm_of(const std::vector<at::Tensor>& all) {
  double norm = 0;
  for (const at::Tensor& t : all) norm = std::hypot(norm, norm_of(t));
  return 0.01 * norm;
}

/// The Euclidean distance of each tensor from the right one, in parts of its norm or of the least norm that counts;
/// infinite where it is of another kind.
std::vector<double> distances(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size()) return {infinity};
  const double least_norm = least_norm_of(expected);
  std::vector<double> found;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const at::Tensor &a = actual[i], &b = expected[i];
    if (!a.defined() && !b.defined()) {
      found.push_back(0);
    } else if (a.defined() != b.defined() || a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) {
      found.push_back(infinity);
    } else {
      const double distance = norm_of(as_real(a) - as_real(b));
      found.push_back(distance == 0 ? 0 : distance / std::max(norm_of(b), least_norm));
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

double epsilon_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return std::numeric_limits<double>::epsilon();
    case at::kFloat: return std::numeric_limits<float>::epsilon();
    case at::kHalf: return std::numeric_limits<at::Half>::epsilon();
    default: return std::numeric_limits<at::BFloat16>::epsilon();
  }
}

/// The same inputs, each number off by as much as rounding makes.
Inputs nudged(const Inputs& inputs) {
  return detail::map_tensors(inputs, [](const at::Tensor& t) {
    if (!t.is_floating_point()) return t.detach().clone();
    const at::Tensor pattern = cosines(t.numel(), t).reshape(t.sizes());
    return (t.detach() * (1 + 2 * epsilon_of(t.scalar_type()) * pattern)).to(t.scalar_type());
  });
}

constexpr std::string_view other_gradients = "has other gradients";

/// How outputs differ, gradients last. Those of weights that have moved say nothing where deep networks overflow.
///
/// @param rounding  what a nudge changes; empty to allow no more than usual rounding
std::string difference_of(
    const NetworkOutputs& actual, const NetworkOutputs& expected, const NudgedOutputs& rounding = {}) {
  if (!are_close(actual.predictions, expected.predictions, rounding.predictions)) return "predicts something else";
  if (detail::are_all_finite(expected.moved.front())) {
    if (!are_close({actual.moved.front()}, {expected.moved.front()}, rounding.moved)) {
      return "predicts something else when the weights change";
    }
    if (!are_close(actual.moved, expected.moved, rounding.moved)) return "writes to its weights";
  }
  return are_close(actual.gradients, expected.gradients, rounding.gradients) ? "" : std::string(other_gradients);
}

/// How many of several outputs count: the later ones if they are finite.
std::size_t count_of(const std::vector<NetworkOutputs>& expected) {
  std::size_t count = 1;
  while (count < expected.size() && detail::are_all_finite(expected[count].predictions)) ++count;
  return count;
}

/// Whether gradients differ by no more than a few numbers on another side of a ReLU may make.
bool differ_by_turns(const NetworkOutputs& actual, const NetworkOutputs& expected) {
  constexpr double most = 0.1;
  const std::vector<double> found = distances(actual.gradients, expected.gradients);
  return std::all_of(found.begin(), found.end(), [](double distance) { return distance <= most; });
}

/// How closely each gradient is compared: 1 unless it is small beside all others.
std::vector<double> closeness_of(const std::vector<at::Tensor>& gradients) {
  const double least_norm = least_norm_of(gradients);
  std::vector<double> found;
  for (const at::Tensor& gradient : gradients) {
    const double norm = norm_of(gradient);
    found.push_back(norm == 0 ? 0 : norm / std::max(norm, least_norm));
  }
  return found;
}

/// Whether outputs with other weights can tell as much as those with the weights as they are: no gradient has become
/// small beside the others, and what was finite still is.
bool says_as_much(const NetworkOutputs& elsewhere, const NetworkOutputs& expected) {
  if (detail::are_all_finite(elsewhere.predictions) != detail::are_all_finite(expected.predictions)) return false;
  if (detail::are_all_finite(elsewhere.moved) != detail::are_all_finite(expected.moved)) return false;
  const std::vector<double> there = closeness_of(elsewhere.gradients), here = closeness_of(expected.gradients);
  const auto is_as_close = [](double t, double h) { return t >= 0.1 * h; };
  return std::equal(there.begin(), there.end(), here.begin(), here.end(), is_as_close);
}

/// How far gradients differ at several points, beside how far nudges move the right ones there.
class Turns {
 public:
  void add(const NetworkOutputs& actual, const NetworkOutputs& expected, const NetworkOutputs& nudged) {
    constexpr double jump = 2e-2;
    const std::vector<double> found = distances(actual.gradients, expected.gradients);
    std::vector<double> moved = distances(nudged.gradients, expected.gradients);
    if (!are_close(nudged.predictions, expected.predictions, {})) moved.clear();  // by a mask, not by turns
    moved.resize(found.size());
    found_.resize(found.size());
    allowed_.resize(found.size());
    for (std::size_t k = 0; k < found.size(); ++k) {
      const double tolerance = expected.gradients[k].defined() ? tolerance_for(expected.gradients[k]) : 0;
      const double allowed = std::max(tolerance, 3 * std::min(moved[k], jump));
      found_[k] += found[k] * found[k];
      allowed_[k] += allowed * allowed;
    }
    ++points_;
  }

  /// Whether each gradient differs as nudges make it do. Few points do not tell.
  bool are_usual() const {
    constexpr int enough = 4;
    return points_ >= enough && std::equal(found_.begin(), found_.end(), allowed_.begin(), std::less_equal());
  }

 private:
  int points_ = 0;
  std::vector<double> found_, allowed_;  // sums of squares
};

/// Numbers between -1 and 1 of the weight's dtype, along its last dimension, so that they take no memory.
at::Tensor pattern_for(const at::Tensor& weight) {
  const at::Tensor pattern = cosines(weight.dim() == 0 ? 1 : weight.size(-1), weight);
  return (weight.dim() == 0 ? pattern[0] : pattern).to(weight.scalar_type());
}

}  // namespace

Inputs copies_of(const Inputs& inputs) {
  return detail::map_tensors(inputs, [](const at::Tensor& t) { return t.detach().clone(); });
}

void move(const std::vector<at::Tensor>& weights, double by) {
  const at::NoGradGuard no_grad;
  // What is added soon makes deep networks overflow.
  for (const at::Tensor& weight : weights) weight.mul_(1 + by).add_(pattern_for(weight), 0.16 * by * by);
  at::autocast::clear_cache();  // it holds copies of the weights from before
}

void vary(const std::vector<at::Tensor>& weights, double by) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& weight : weights) weight.mul_(1 + by * pattern_for(weight));
  at::autocast::clear_cache();
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
      const at::Tensor part = (flat * cosines_for(flat)).sum();
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
  std::vector<std::size_t> differ;
  for (std::size_t i = 0; i < count_of(expected); ++i) {
    if (!difference_of(actual[i], expected[i]).empty()) differ.push_back(i);
  }
  if (differ.empty()) return "";
  {
    const std::vector<NetworkOutputs> of_nudged = expected_for(nudged(inputs), 0);
    std::vector<std::size_t> by_turns;
    for (const std::size_t i : differ) {
      const std::string how = difference_of(actual[i], expected[i], moved_by_nudge(of_nudged[i], expected[i]));
      if (how.empty()) continue;
      if (how != other_gradients || !differ_by_turns(actual[i], expected[i])) return how;
      by_turns.push_back(i);
    }
    differ = std::move(by_turns);
  }
  if (differ.empty()) return "";
  std::vector<Turns> turns(expected.size());
  for (const double varied_by : {0.03, 0.05, 0.02, 0.04, 0.06, 0.025, 0.035, 0.045}) {
    const std::vector<NetworkOutputs> there = expected_for(inputs, varied_by), found = actual_for(inputs, varied_by);
    const std::vector<NetworkOutputs> of_nudged = expected_for(nudged(inputs), varied_by);
    std::vector<std::size_t> still_differ;
    for (const std::size_t i : differ) {
      const std::string how = difference_of(found[i], there[i], moved_by_nudge(of_nudged[i], there[i]));
      if (!how.empty() && how != other_gradients) return how;
      const bool counts = says_as_much(there[i], expected[i]) && differ_by_turns(found[i], there[i]);
      if (counts) turns[i].add(found[i], there[i], of_nudged[i]);
      if (!counts || (!how.empty() && !turns[i].are_usual())) still_differ.push_back(i);
    }
    differ = std::move(still_differ);
    if (differ.empty()) return "";
  }
  return std::string(other_gradients);
}

}  // namespace it3
