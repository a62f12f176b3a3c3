#pragma once

#include <cstddef>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <it3/options.h>

namespace it3::detail {

/// The anchor's weights where they follow those that adapt, see AnchorKind::ema: before anything adapted.
inline std::vector<at::Tensor> moving_average_of(const std::vector<at::Tensor>& start) {
  std::vector<at::Tensor> average;
  average.reserve(start.size());
  for (const auto& value : start) {
    // In half precision, the small steps of an average would round to none.
    average.push_back(at::isReducedFloatingType(value.scalar_type()) ? value.to(at::kFloat) : value.clone());
  }
  return average;
}

/// Lets the average follow after a step.
inline void follow(const std::vector<at::Tensor>& average, const std::vector<at::Tensor>& values, const Options& o) {
  constexpr double default_decay = 0.99;
  const at::NoGradGuard no_grad;
  const double decay = o.ema_decay.value_or(default_decay);
  for (std::size_t i = 0; i < average.size(); ++i) {
    average[i].lerp_(values[i].to(average[i].scalar_type()), 1 - decay);
  }
}

}  // namespace it3::detail
