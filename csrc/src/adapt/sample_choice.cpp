#include "adapt/sample_choice.h"

#include <limits>
#include <string>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/backend/sample_distances.h>
#include <it3/backend/samples.h>

#include "adapt/finite_check.h"
#include "adapt/stopped_samples.h"
#include "support/all_finite.h"
#include "support/sample_names.h"

namespace it3::detail {
namespace {

/// Distances, NaN for samples whose inputs are not finite: their predictions may be, as of a tanh, but no gradients.
at::Tensor without_non_finite_inputs(const at::Tensor& distances, const AdaptCall& call) {
  const at::Tensor non_finite = non_finite_inputs(call.inputs, call.method, /*spares_masks=*/true);
  if (!non_finite.defined() || non_finite.sizes() != distances.sizes()) return distances;
  return distances.masked_fill(non_finite.to(distances.device()), std::numeric_limits<double>::quiet_NaN());
}

/// The inputs with the samples whose distance is not finite replaced by one that adapts: as part of the batch, even
/// with no weight in the loss, they would make gradients NaN.
Inputs with_finite_samples(const AdaptCall& call, const at::Tensor& distances, const at::Tensor& rows) {
  const at::Tensor non_finite = distances.isfinite().logical_not();
  const std::string names = names_of_samples(non_finite, call.first_sample);
  std::optional<Samples> samples;
  try {
    samples.emplace(call.inputs, call.method.in_dims, call.method.prediction_layout);
  } catch (const c10::ValueError& error) {
    TORCH_CHECK_VALUE(
        false, "the predictions for ", names,
        " are not finite, and these samples cannot be left out: ", error.what_without_backtrace());
  }
  TORCH_CHECK_VALUE(
      samples->count() == distances.size(0), "the predictions for ", names,
      " are not finite, and these samples cannot be left out, because the inputs have ", samples->count(),
      " samples, but the prediction has ", distances.size(0), "; say by in_dims where the inputs hold samples");
  return samples->select(at::where(non_finite, rows[0], at::arange(distances.size(0), rows.options())));
}

/// Where stacked batches of one sample have their samples and channels.
Layout of_stacked(const Layout& layout, std::int64_t rank) {
  return {.channel_dim = rank > 1 ? std::optional(layout.channel_of(rank - 1) + 1) : std::nullopt};
}

}  // namespace

SampleChoice::SampleChoice(const AdaptCall& call, Evaluation& evaluation) : call_(call), evaluation_(evaluation) {
  if (!call.options.threshold) return;
  before_ = evaluation.answer(call.options.prediction, /*with_second=*/true);
  const std::int64_t rank = before_.first.dim();
  const Layout& of_one = call.method.prediction_layout;
  const Layout layout = call.samples ? of_stacked(of_one, rank) : of_one;
  batch_dim_ = layout.batch_of(rank);
  at::Tensor distances = sample_distances(before_.second, before_.first, layout, call.method.feeds_probabilities);
  distances = without_non_finite_inputs(distances, call);
  adapted_ = (distances > *call.options.threshold).logical_and(distances.isfinite());
  has_any_ = adapted_.any().item<bool>();
  if (call.samples) return;
  rows_ = adapted_.nonzero().flatten();
  if (has_any_ && !are_all_finite(distances)) {
    evaluation.step_by(with_finite_samples(call, distances, rows_));
  }
}

Answer SampleChoice::answer() const {
  if (!has_any_) {
    const bool has_second = call_.with_details || call_.options.prediction != PredictionKind::first;
    return {before_.first, has_second ? before_.second : at::Tensor(), before_.prediction};
  }
  Answer answer = evaluation_.answer(call_.options.prediction, call_.with_details);
  if (!adapted_.defined()) return answer;
  const auto chosen = [&](const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() || a.dim() == 0) return a;
    return at::where(along_samples(adapted_, a, batch_dim_), a, b);
  };
  return {
      chosen(answer.first, before_.first), chosen(answer.second, before_.second),
      chosen(answer.prediction, before_.prediction)};
}

}  // namespace it3::detail
