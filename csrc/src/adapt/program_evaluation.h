#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include <it3/adapt.h>
#include <it3/backend/compiled.h>
#include <it3/backend/online.h>
#include <it3/network.h>

#include "adapt/evaluation.h"

namespace it3::detail {

/// Copies of parameters, each in memory of its own, or stacked copies, one for each sample.
class PlainWeights : public AdaptedWeights {
 public:
  PlainWeights(const std::vector<NamedParameter>& adapted, std::optional<std::int64_t> samples);

  const std::vector<at::Tensor>& values() const override { return values_; }
  void commit() override;

 private:
  std::vector<at::Tensor> own_, values_;
};

/// A program raised. The call can be made once more, when it will be evaluated by passes.
struct ProgramError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An evaluation by programs. Borrows all that it is given. While it lives, this thread records no gradients.
class ProgramEvaluation : public Evaluation {
 public:
  /// @param values  of the weights that adapt; empty where there are no steps
  /// @param state  the start, and the moving average, that the anchor has
  ProgramEvaluation(
      const AdaptCall& call,
      const Compiled& compiled,
      const std::vector<at::Tensor>& values,
      const Online::CallState& state);

  /// Why the programs cannot be run on this call's values; empty if they can.
  std::string why_not();

  std::optional<StepEvaluation> step(const at::Tensor& rows) override;
  Answer answer(PredictionKind kind, bool with_second) override;
  void step_by(const Inputs& inputs) override { of_steps_ = Values{arguments_in(inputs)}; }

 private:
  /// The results of a program. Raises ProgramError, and lets such calls be evaluated by passes from then on.
  std::vector<at::Tensor> run(const CompiledProgram& program, const std::vector<at::Tensor>& values) const;
  static std::vector<at::Tensor> arguments_in(const Inputs& inputs);

  /// What the programs are run on, with some inputs.
  struct Values {
    std::vector<at::Tensor> inputs = {};
    std::vector<at::Tensor> all = {};  // empty until they are needed
    std::size_t rows = 0;              // the place in `all` of the samples that count
  };
  /// Those that no program has to be run for.
  std::vector<at::Tensor> unprepared(Values& values) const;
  /// All of them, as the weights are now.
  std::vector<at::Tensor>& all(Values& values) const;

  // The loop around it differentiates nothing.
  at::NoGradGuard no_grad_;
  at::AutoDispatchBelowADInplaceOrView below_autograd_;
  const AdaptCall& call_;
  const Compiled& compiled_;
  const Online::CallState& state_;
  std::vector<at::Tensor> weights_, constants_;
  Values of_answers_;
  std::optional<Values> of_steps_;  // where they are others
};

}  // namespace it3::detail
