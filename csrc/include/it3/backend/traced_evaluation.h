#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/export.h>
#include <it3/network.h>

namespace it3 {

/// A network that is cut at its layer, as functions of its weights.
struct PassFunctions {
  /// What the layer's output is computed from, and all else that the rest of the network needs.
  std::function<std::vector<c10::IValue>(const std::vector<at::Tensor>& weights, const Inputs& inputs)> head;
  /// The prediction. `inject` may be null, see TwoPass::resume().
  std::function<at::Tensor(const std::vector<c10::IValue>& carried, const Inject* inject)> tail;
};

/// What the programs of a Compiled compute, done once by functions, for somebody who records torch's operations to make
/// programs of them. All tensors may have symbolic sizes. With Options::per_sample, weights and inputs are stacked, and
/// the functions are given those of one sample.
struct IT3_API TracedEvaluation {
  /// Its inputs are those of the passes, tensors only.
  const AdaptCall& call;
  const PassFunctions& functions;
  std::vector<at::Tensor> weights;
  /// Of another network that is the anchor.
  std::vector<at::Tensor> anchor;

  /// (loss, y0, gradients...), with undefined ones.
  std::vector<at::Tensor> step(const at::Tensor& rows) const;

  /// (y0), or (y0, y1).
  std::vector<at::Tensor> answer(bool with_second) const;
};

}  // namespace it3
