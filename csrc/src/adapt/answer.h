#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <it3/network.h>
#include <it3/options.h>

#include "method/passes.h"

namespace it3::detail {

/// A network's predictions, detached. The second is undefined unless it was asked for, or is part of the answer.
struct Answer {
  at::Tensor first, second, prediction;
};

inline Answer answer_of(TwoPass& network, const Passes& passes, PredictionKind name, bool with_second) {
  const at::NoGradGuard no_grad;
  const FirstPass pass = passes.first(network);
  Answer answer{pass.prediction.detach(), {}, pass.prediction.detach()};
  if (with_second || name != PredictionKind::first) {
    answer.second = passes.second(network, pass, answer.first).detach();
  }
  if (name == PredictionKind::second) answer.prediction = answer.second;
  if (name == PredictionKind::mean) answer.prediction = (answer.first + answer.second) / 2;
  return answer;
}

}  // namespace it3::detail
