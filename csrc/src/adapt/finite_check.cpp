#include "adapt/finite_check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <string_view>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/util/Exception.h>

#include <it3/backend/samples.h>
#include <it3/backend/uncertainty.h>

#include "support/as_real.h"
#include "support/plain_memory.h"
#include "support/sample_names.h"

namespace it3::detail {
namespace {

/// Whether values are looked at one by one in less time than operations take.
bool are_few(const at::Tensor& t) {
  constexpr std::int64_t few = 16384;
  return is_plain(t) && t.scalar_type() == at::kFloat && t.numel() <= few;
}

/// 0, or infinity where any of few values is not finite. Magnitudes of floats are in the order of their bits, of which
/// compilers compare many at once.
double report_on_few(const at::Tensor& t) {
  constexpr std::uint32_t magnitude = 0x7fffffff;
  constexpr std::int32_t infinity = 0x7f800000;
  const float* const values = t.const_data_ptr<float>();
  std::int32_t greatest = 0;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    greatest = std::max(greatest, static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(values[i]) & magnitude));
  }
  return greatest < infinity ? 0 : std::numeric_limits<double>::infinity();
}

at::Tensor report_on_results(const at::Tensor& losses, const std::array<at::Tensor, 2>& others) {
  const auto is_looked_at = [](const at::Tensor& t) { return t.numel() > 0 && are_few(t); };
  if (are_few(losses) && std::all_of(others.begin(), others.end(), is_looked_at)) {
    const float* const values = losses.const_data_ptr<float>();
    std::vector<double> numbers(values, values + losses.numel());
    for (const at::Tensor& t : others) numbers.insert(numbers.end(), 2, report_on_few(t));
    const at::Tensor report = at::detail::empty_cpu({std::ssize(numbers)}, at::kDouble);
    std::copy(numbers.begin(), numbers.end(), report.mutable_data_ptr<double>());
    return report;
  }
  std::vector<at::Tensor> parts = {losses.flatten()};
  for (const at::Tensor& t : others) {
    const auto [least, greatest] = at::aminmax(as_real(t));
    parts.push_back(least.reshape({1}));
    parts.push_back(greatest.reshape({1}));
  }
  return at::cat(parts);
}

/// Numbers that are finite if all values of the tensors are. The largest magnitudes, and no sums of squares, which
/// overflow where values are still finite.
std::vector<at::Tensor> extremes_of(const std::vector<at::Tensor>& tensors) {
  if (tensors.front().is_cuda()) return at::_foreach_norm(tensors, std::numeric_limits<double>::infinity());
  std::vector<at::Tensor> extremes;  // the norm takes ten times as long on the CPU
  for (const at::Tensor& t : tensors) {
    const auto [least, greatest] = at::aminmax(as_real(t));
    extremes.push_back(least);
    extremes.push_back(greatest);
  }
  return extremes;
}

/// One number, which is finite if all weights are.
at::Tensor report_on_weights(const std::vector<at::Tensor>& weights, at::Device device) {
  std::vector<at::Tensor> large;
  double of_few = 0;
  for (const at::Tensor& weight : weights) {
    if (are_few(weight)) {
      of_few += report_on_few(weight);
    } else if (weight.numel() > 0) {
      large.push_back(weight);
    }
  }
  at::Tensor report = at::full({1}, of_few, at::TensorOptions(device).dtype(at::kDouble));
  if (large.empty()) return report;
  std::vector<at::Tensor> extremes = extremes_of(large);
  at::ScalarType widest = at::kFloat;
  for (const at::Tensor& t : extremes) widest = at::promote_types(widest, t.scalar_type());
  for (at::Tensor& t : extremes) t = t.to(device, widest);
  return report + at::stack(extremes).abs().amax();
}

}  // namespace

at::Tensor report_on(
    const at::Tensor& losses,
    const at::Tensor& prediction,
    const at::Tensor& unadapted,
    const std::vector<at::Tensor>& weights) {
  at::Tensor of_results = report_on_results(losses, {prediction, unadapted});
  if (weights.empty()) return of_results;
  return at::cat({of_results, report_on_weights(weights, losses.device())});
}

std::string what_is_not_finite(const LoopOutcome& outcome, std::int64_t first_sample) {
  if (!outcome.report.defined()) return "";
  const at::Tensor& losses = outcome.result.losses;
  const at::Tensor on_cpu = outcome.report.to(at::kCPU).to(at::kDouble);
  const double* const values = on_cpu.const_data_ptr<double>();
  const std::int64_t count = losses.numel(), width = std::max<std::int64_t>(1, count / losses.size(0));
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isfinite(values[i])) continue;
    return c10::str(
        "the loss ", losses.dim() > 1 ? c10::str("of sample ", first_sample + i % width, " ") : "", "at step ",
        i / width + 1, " of ", losses.size(0), " is ", std::isnan(values[i]) ? "nan" : "infinite");
  }
  if (on_cpu.size(0) > count + 4 && !std::isfinite(values[count + 4])) return "an adapted weight is not finite";
  const auto are_finite = [&](std::int64_t i) { return std::isfinite(values[i]) && std::isfinite(values[i + 1]); };
  if (are_finite(count)) return "";
  // Some models predict such values by themselves.
  bool is_own = !are_finite(count + 2);
  if (is_own && outcome.unadapted.defined() && outcome.unadapted.sizes() == outcome.result.prediction.sizes()) {
    const auto is_new = outcome.result.prediction.isfinite().logical_not().logical_and(outcome.unadapted.isfinite());
    is_own = !is_new.any().item<bool>();
  }
  return is_own ? "" : "the adapted prediction is not finite";
}

at::Tensor non_finite_inputs(const Inputs& inputs, const Method& method, bool spares_masks) {
  try {
    return Samples(inputs, method.in_dims, method.prediction_layout).are_finite(spares_masks).logical_not();
  } catch (const c10::ValueError&) {
    return {};
  }
}

std::string blame_samples(const AdaptCall& call) {
  const auto blame = [&](std::string_view what, const at::Tensor& non_finite) {
    const bool has_any = non_finite.defined() && non_finite.any().item<bool>();
    return has_any ? c10::str(
                         ", as the ", what, " for ", names_of_samples(non_finite, call.first_sample), " are not finite")
                   : "";
  };
  const std::string of_predictions =
      blame("predictions", uncertainty(call.network, call.method, call.inputs, call.options).isfinite().logical_not());
  return of_predictions.empty() ? blame("inputs", non_finite_inputs(call.inputs, call.method, /*spares_masks=*/false))
                                : of_predictions;
}

}  // namespace it3::detail
