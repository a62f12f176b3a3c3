#include <it3/backend/calibration.h>

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/backend/uncertainty.h>

#include "support/sample_names.h"

namespace it3 {
namespace {

using Kind = PredictionRange::Kind;

Kind kind_of(const at::Tensor& prediction, const Method& method) {
  if (method.feeds_probabilities) return Kind::logits;
  return are_probabilities(prediction, method.prediction_layout) ? Kind::probabilities : Kind::numbers;
}

}  // namespace

void Calibration::add(const EngineCall& call, const Options& options) {
  const Adaptation unadapted = predict_twice(call.network, call.method, call.inputs, options, &call.setup.compiled);
  distances_.push_back(unadapted.uncertainty().to(at::kCPU));
  if (range_.samples == 0) range_.kind = kind_of(unadapted.first, call.method);
  range_.widen(unadapted.first, call.method.prediction_layout);
}

double Calibration::threshold(double quantile) const {
  TORCH_CHECK_VALUE(quantile >= 0 && quantile <= 1, "quantile must be a number from 0 to 1, not ", quantile);
  TORCH_CHECK_VALUE(!distances_.empty(), "there are no batches to calibrate with");
  std::vector<at::Tensor> flat;
  flat.reserve(distances_.size());
  for (const auto& of_batch : distances_) flat.push_back(of_batch.to(at::kDouble));
  const at::Tensor all = at::cat(flat);
  const at::Tensor non_finite = all.isfinite().logical_not();
  TORCH_CHECK_VALUE(
      !non_finite.any().item<bool>(), "the uncertainty is not finite for ", detail::names_of_samples(non_finite),
      ", counted from 0 over all batches to calibrate with; leave these out, or check them for NaN and infinity");
  const at::Tensor sorted = std::get<0>(at::sort(all));
  TORCH_CHECK_VALUE(sorted.numel() > 0, "there are no samples to calibrate with");
  // at::quantile takes no more than 16 million values.
  const double position = quantile * static_cast<double>(sorted.numel() - 1);
  const auto below = static_cast<std::int64_t>(position);
  const std::int64_t above = std::min(below + 1, sorted.numel() - 1);
  const double low = sorted[below].item<double>();
  return low + (position - static_cast<double>(below)) * (sorted[above].item<double>() - low);
}

}  // namespace it3
