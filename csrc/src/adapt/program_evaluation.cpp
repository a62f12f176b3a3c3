#include "adapt/program_evaluation.h"

#include <cstring>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "support/error_text.h"
#include "support/plain_memory.h"
#include "support/write_all.h"

namespace it3::detail {
namespace {

std::vector<at::Tensor> arguments_of(const std::vector<at::Tensor>& values) {
  std::vector<at::Tensor> arguments;
  arguments.reserve(values.size());
  for (const at::Tensor& value : values) arguments.push_back(CompiledProgram::as_argument(value));
  return arguments;
}

/// The sizes of a tensor that is stacked.
std::vector<std::int64_t> with_samples(const at::Tensor& t, std::int64_t samples) {
  std::vector<std::int64_t> sizes = t.sizes().vec();
  sizes.insert(sizes.begin(), samples);
  return sizes;
}

/// Past the dispatcher, which takes longer than copying the weights of a small network.
at::Tensor plain_copy(const at::Tensor& t) {
  const at::TensorBase copy = at::detail::empty_cpu(t.sizes(), t.scalar_type());
  std::memcpy(copy.mutable_data_ptr(), t.const_data_ptr(), t.nbytes());
  return at::Tensor(copy);
}

/// Stand-ins for the samples that count, as many as that may be.
at::Tensor some_rows(std::int64_t count, const at::Tensor& like) {
  return at::zeros({count}, like.options().dtype(at::kLong));
}

}  // namespace

PlainWeights::PlainWeights(const std::vector<NamedParameter>& adapted, std::optional<std::int64_t> samples)
    : own_(tensors_of(adapted)) {
  const at::NoGradGuard no_grad;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  std::vector<at::Tensor> from, to;
  values_.reserve(own_.size());
  for (const at::Tensor& own : own_) {
    if (!samples && own.numel() > 0 && is_plain(own)) {
      values_.push_back(plain_copy(own));
      continue;
    }
    from.push_back(samples ? own.expand(with_samples(own, *samples)) : own);
    to.push_back(at::empty(from.back().sizes(), own.options().requires_grad(false)));
    values_.push_back(to.back());
  }
  if (!to.empty()) at::_foreach_copy_(to, from);
}

void PlainWeights::commit() { write_all(own_, values_); }

ProgramEvaluation::ProgramEvaluation(
    const AdaptCall& call,
    const Compiled& compiled,
    const std::vector<at::Tensor>& values,
    const Online::CallState& state)

    : call_(call),
      compiled_(compiled),
      state_(state),
      weights_(values),
      constants_(arguments_of(compiled_.what().constants)),
      of_answers_{arguments_in(call.inputs)} {
  if (!weights_.empty()) return;
  // Nothing adapts: the model's own, of which every sample has the same.
  for (const NamedParameter& parameter : compiled_.what().adapted) {
    at::Tensor own = parameter.tensor.detach();
    if (call.samples) own = own.expand(with_samples(own, *call.samples));
    weights_.push_back(CompiledProgram::as_argument(own));
  }
}

std::vector<at::Tensor> ProgramEvaluation::arguments_in(const Inputs& inputs) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(inputs.args.size());
  for (const auto& input : inputs.args) tensors.push_back(CompiledProgram::as_argument(input.toTensor()));
  return tensors;
}

std::vector<at::Tensor> ProgramEvaluation::unprepared(Values& values) const {
  std::vector<at::Tensor> all = weights_;
  if (compiled_.what().options.anchor != AnchorKind::self) {
    // Nothing adapts, or the anchor is the network as it was.
    const auto& own = call_.options.anchor == AnchorKind::ema ? state_.average : state_.start;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      all.push_back(own.empty() ? weights_[i] : CompiledProgram::as_argument(own[i].to(weights_[i].scalar_type())));
    }
  }
  all.insert(all.end(), constants_.begin(), constants_.end());
  all.insert(all.end(), values.inputs.begin(), values.inputs.end());
  values.rows = all.size();
  all.emplace_back();
  return all;
}

std::vector<at::Tensor>& ProgramEvaluation::all(Values& values) const {
  const bool does_anchor_move = call_.options.anchor == AnchorKind::ema && !state_.average.empty();
  if (!values.all.empty() && !does_anchor_move) return values.all;
  values.all = unprepared(values);
  if (const auto& prepare = compiled_.programs().prepare) {
    for (const at::Tensor& result : run(*prepare, values.all)) {
      values.all.push_back(CompiledProgram::as_argument(result));
    }
  }
  return values.all;
}

std::vector<at::Tensor> ProgramEvaluation::run(
    const CompiledProgram& program, const std::vector<at::Tensor>& values) const {
  try {
    return program(values);
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) throw;
    compiled_.decide(call_, "a program raised: " + error_text(error));
    throw ProgramError(text_of(error));
  }
}

std::string ProgramEvaluation::why_not() {
  const auto& [prepare, gradients, gradients_of_rows, has_gradient, first, both] = compiled_.programs();
  if (prepare) {
    if (std::string why = prepare->why_not(unprepared(of_answers_)); !why.empty()) return why;
  }
  std::vector<at::Tensor>& values = all(of_answers_);
  for (const CompiledProgram* const program : {&gradients, &first, &both}) {
    if (std::string why = program->why_not(values); !why.empty()) return why;
  }
  if (!call_.options.threshold || call_.samples) return "";
  for (const std::int64_t count : {1, 2}) {
    values[of_answers_.rows] = some_rows(count, weights_.empty() ? of_answers_.inputs[0] : weights_[0]);
    if (!gradients_of_rows || !gradients_of_rows->why_not(values).empty()) {
      return "the programs cannot leave samples out, as threshold asks for";
    }
  }
  return "";
}

std::optional<StepEvaluation> ProgramEvaluation::step(const at::Tensor& rows) {
  const auto& programs = compiled_.programs();
  const auto& of_rows = programs.gradients_of_rows;
  TORCH_INTERNAL_ASSERT(!rows.defined() || of_rows.has_value());  // see why_not()
  const CompiledProgram& program = rows.defined() && of_rows ? *of_rows : programs.gradients;
  Values& values = of_steps_ ? *of_steps_ : of_answers_;
  std::vector<at::Tensor>& taken = all(values);
  taken[values.rows] = rows;
  std::vector<at::Tensor> results = run(program, taken);
  StepEvaluation evaluated{results.at(1), {results.at(0), {}}};
  auto next = results.begin() + 2;
  for (const bool has_gradient : programs.has_gradient) {
    evaluated.objective.gradients.push_back(has_gradient ? std::move(*next++) : at::Tensor());
  }
  return evaluated;
}

Answer ProgramEvaluation::answer(PredictionKind kind, bool with_second) {
  const bool has_second = with_second || kind != PredictionKind::first;
  const CompiledProgram& program = has_second ? compiled_.programs().both : compiled_.programs().first;
  std::vector<at::Tensor> results = run(program, all(of_answers_));
  return answer_from(results.at(0), has_second ? results.at(1) : at::Tensor(), kind);
}

}  // namespace it3::detail
