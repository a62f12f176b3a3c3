#include <it3/backend/sample_distances.h>

#include <limits>

#include <ATen/ATen.h>

#include <it3/backend/feedback.h>

namespace it3 {

at::Tensor sample_distances(
    const at::Tensor& second, const at::Tensor& first, const Layout& layout, bool of_probabilities) {
  const auto widened = [](const at::Tensor& t) {
    return at::isReducedFloatingType(t.scalar_type()) ? t.to(at::kFloat) : t;
  };
  const at::Tensor wide_second = widened(second), wide_first = widened(first);
  at::Tensor difference = wide_second - wide_first;
  if (of_probabilities) {
    // softmax makes a finite 0 of minus infinity.
    const at::Tensor non_finite = difference.isfinite().logical_not();
    difference = (class_probabilities(wide_second, layout) - class_probabilities(wide_first, layout))
                     .masked_fill(non_finite, std::numeric_limits<double>::quiet_NaN());
  }
  if (difference.dim() == 0) difference = difference.unsqueeze(0);
  return difference.movedim(layout.batch_of(difference.dim()), 0).unsqueeze(1).flatten(1).norm(2, 1);
}

}  // namespace it3
