#include <it3/backend/prediction_range.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

namespace it3 {
namespace {

constexpr std::array<std::string_view, 3> kind_names = {"logits", "probabilities", "numbers"};

}  // namespace

std::int64_t PredictionRange::samples_of(const at::Tensor& prediction, const Layout& layout) {
  return prediction.dim() == 0 ? 1 : prediction.size(layout.batch_of(prediction.dim()));
}

double PredictionRange::measure(const at::Tensor& prediction, const Layout& layout) const {
  const at::Tensor values =
      at::isReducedFloatingType(prediction.scalar_type()) ? prediction.to(at::kFloat) : prediction;
  if (kind == Kind::numbers) {
    const at::Tensor by_sample =
        values.dim() == 0 ? values.reshape({1, 1}) : values.movedim(layout.batch_of(values.dim()), 0).unsqueeze(1);
    return by_sample.flatten(1).norm(2, 1).mean().item<double>();
  }
  const std::int64_t classes = layout.channel_of(values.dim());
  const at::Tensor p = kind == Kind::logits ? values.softmax(classes) : values;
  return at::xlogy(p, p).sum(classes).neg().mean().item<double>();
}

bool PredictionRange::is_exceeded_by(double value) const {
  return kind == Kind::numbers ? value > 2 * most_extreme : value < most_extreme / 2;
}

void PredictionRange::widen(const at::Tensor& prediction, const Layout& layout) {
  const std::int64_t of_batch = samples_of(prediction, layout);
  if (of_batch == 0) return;
  const double value = measure(prediction, layout);
  const bool is_more_extreme = kind == Kind::numbers ? value > most_extreme : value < most_extreme;
  if (samples == 0 || is_more_extreme) most_extreme = value;
  samples = samples == 0 ? of_batch : std::min(samples, of_batch);
}

c10::IValue to_ivalue(const std::optional<PredictionRange>& range) {
  if (!range) return {};
  const std::string kind(kind_names.at(static_cast<std::size_t>(range->kind)));
  return c10::ivalue::Tuple::create(kind, range->most_extreme, range->samples);
}

std::optional<PredictionRange> prediction_range_from(const c10::IValue& value) {
  if (value.isNone()) return std::nullopt;
  const auto elements = value.toTuple()->elements().vec();
  const auto kind = std::find(kind_names.begin(), kind_names.end(), elements.at(0).toStringView());
  TORCH_CHECK(kind != kind_names.end(), "there are no predictions of the kind '", elements.at(0).toStringRef(), "'");
  return PredictionRange{
      static_cast<PredictionRange::Kind>(kind - kind_names.begin()), elements.at(1).toDouble(), elements.at(2).toInt()};
}

}  // namespace it3
