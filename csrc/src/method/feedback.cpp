#include <it3/backend/feedback.h>

#include <algorithm>
#include <array>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "method/class_dim.h"
#include "support/nearest_name.h"

namespace it3 {
namespace {

constexpr std::array<std::string_view, 3> feedback_names = {"auto", "probabilities", "prediction"};

}  // namespace

Feedback feedback_by_name(std::string_view name) {
  const auto found = std::find(feedback_names.begin(), feedback_names.end(), name);
  TORCH_CHECK_VALUE(
      found != feedback_names.end(), "feedback must be one of ", detail::join(feedback_names), ", not '", name, "'");
  return static_cast<Feedback>(found - feedback_names.begin());
}

std::string_view to_string(Feedback feedback) { return feedback_names.at(static_cast<std::size_t>(feedback)); }

at::Tensor class_probabilities(const at::Tensor& prediction, const Layout& layout) {
  constexpr std::string_view need = "class probabilities can be fed back where there are several classes";
  return prediction.softmax(detail::class_dim(prediction, layout, need, "give feedback='prediction'"));
}

bool are_probabilities(const at::Tensor& prediction, const Layout& layout) {
  if (prediction.dim() < 2 || prediction.numel() == 0 || !prediction.is_floating_point()) return false;
  const at::Tensor values = prediction.detach().to(at::kDouble);
  const at::Tensor sums = values.sum(layout.channel_of(values.dim()));
  constexpr double rounding = 1e-2;  // of half precision
  return ((values >= 0).all().logical_and(((sums - 1).abs() <= rounding).all())).item<bool>();
}

}  // namespace it3
