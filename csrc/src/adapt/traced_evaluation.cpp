#include <it3/backend/traced_evaluation.h>

#include <memory>
#include <optional>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include "adapt/gradient_mode.h"
#include "adapt/pass_evaluation.h"
#include "adapt/per_sample.h"
#include "network/map_inputs.h"
#include "support/mixed_precision.h"
#include "support/vmap.h"

namespace it3 {
namespace {

using detail::map_tensors;

/// The passes by functions, on these weights.
class FunctionPasses : public TwoPass {
 public:
  FunctionPasses(const PassFunctions& functions, std::vector<at::Tensor> weights, bool are_stacked)
      : functions_(functions), weights_(std::move(weights)), are_stacked_(are_stacked) {}

  FirstPass prepare(const Inputs& inputs) override {
    if (!are_stacked_) return {{}, functions_.head(weights_, inputs)};
    const detail::Vmap vmap(inputs.args.at(0).toTensor().sym_size(0));
    std::vector<at::Tensor> weights = weights_;
    for (at::Tensor& weight : weights) weight = detail::Vmap::wrap(weight);
    return {{}, map_tensors(functions_.head(weights, map_tensors(inputs, detail::Vmap::wrap)), detail::Vmap::unwrap)};
  }

  FirstPass predict(const Inputs& inputs, const Inject* inject) override {
    FirstPass first = prepare(inputs);
    first.prediction = resume(inputs, first, inject);
    return first;
  }

  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    if (!are_stacked_) return functions_.tail(first.carried, inject);
    const detail::Vmap vmap(inputs.args.at(0).toTensor().sym_size(0));
    return detail::Vmap::unwrap(functions_.tail(map_tensors(first.carried, detail::Vmap::wrap), inject));
  }

 private:
  const PassFunctions& functions_;
  std::vector<at::Tensor> weights_;
  bool are_stacked_;
};

class FunctionCopy : public WorkingCopy {
 public:
  FunctionCopy(const PassFunctions& functions, const std::vector<at::Tensor>& weights, bool are_stacked)
      : functions_(functions),
        leaves_(leaves_of(weights)),
        passes_(functions, leaves_, are_stacked),
        are_stacked_(are_stacked) {}

  FirstPass prepare(const Inputs& inputs) override { return passes_.prepare(inputs); }
  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return passes_.predict(inputs, inject); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return passes_.resume(inputs, first, inject);
  }
  const std::vector<at::Tensor>& leaves() const override { return leaves_; }
  const std::vector<at::Tensor>& values() const override { return leaves_; }
  std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) override {
    return std::make_unique<FunctionPasses>(functions_, values, are_stacked_);
  }
  bool resumes_behind_layer() const override { return true; }
  void commit() override { TORCH_INTERNAL_ASSERT(false); }

 private:
  static std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& weights) {
    std::vector<at::Tensor> leaves;
    leaves.reserve(weights.size());
    for (const at::Tensor& weight : weights) leaves.push_back(weight.detach().requires_grad_());
    return leaves;
  }

  const PassFunctions& functions_;
  std::vector<at::Tensor> leaves_;
  FunctionPasses passes_;
  bool are_stacked_;
};

/// Gives an evaluation to `work`.
template <typename Work>
std::vector<at::Tensor> evaluate(const TracedEvaluation& traced, const Work& work) {
  const detail::GradientMode gradient_mode;
  const detail::MixedPrecision mixed_precision(traced.call.options.amp, traced.weights.at(0).device().type());
  const bool are_stacked = traced.call.options.per_sample;
  const Method method = are_stacked ? detail::stacked(traced.call.method) : traced.call.method;
  AdaptCall call = traced.call.with(method, traced.call.inputs);
  if (are_stacked) call.samples = 0;  // any number
  FunctionCopy copy(traced.functions, traced.weights, are_stacked);
  detail::PassInputs inputs(call.inputs, call.inputs, /*may_be_written=*/false);
  const Online::CallState state{.start = traced.anchor, .average = traced.anchor};
  detail::PassEvaluation evaluation(call, copy, inputs, state, /*adapts=*/true);
  return work(evaluation);
}

}  // namespace

std::vector<at::Tensor> TracedEvaluation::step(const at::Tensor& rows) const {
  return evaluate(*this, [&](detail::PassEvaluation& evaluation) {
    auto evaluated = evaluation.step(rows);
    TORCH_CHECK_VALUE(evaluated.has_value(), "the example is an empty batch; give one with samples");
    std::vector<at::Tensor> results = {evaluated->objective.loss, evaluated->first};
    for (at::Tensor& gradient : evaluated->objective.gradients) results.push_back(std::move(gradient));
    return results;
  });
}

std::vector<at::Tensor> TracedEvaluation::answer(bool with_second) const {
  return evaluate(*this, [&](detail::PassEvaluation& evaluation) -> std::vector<at::Tensor> {
    const detail::Answer answer = evaluation.answer(PredictionKind::first, with_second);
    if (!with_second) return {answer.first};
    return {answer.first, answer.second};
  });
}

}  // namespace it3
