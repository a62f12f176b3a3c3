#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/compiled_program.h>
#include <it3/backend/export.h>
#include <it3/options.h>

namespace it3 {

/// The evaluations of one network by one method as programs, which the inner loop calls in the place of passes: the
/// loss and its gradients, and the predictions. Safe to use in several threads at once.
///
/// All programs are run on the same values, in this order: the weights that adapt; where the anchor is another network,
/// its weights; `constants`; the tensors in the inputs; and the samples that count, as indices, (R,) of int64.
class IT3_API Compiled {
 public:
  /// What the programs were compiled for.
  struct For {
    std::uint64_t network = 0;  // Network::id()
    Options options = {};       // see compiled_options()
    std::vector<NamedParameter> adapted = {};
    std::vector<at::Tensor> constants = {};
    std::vector<at::Tensor> reads = {};  // Method::reads

    /// Raises c10::ValueError where a parameter that adapts shares memory with anything else among these.
    void check() const;
  };

  struct Programs {
    /// (loss, y0, gradients...), without those that are undefined.
    CompiledProgram gradients;
    /// The same by the samples that count; nothing with Options::per_sample.
    std::optional<CompiledProgram> gradients_of_rows;
    std::vector<bool> has_gradient;  // by the weights that adapt
    /// (y0).
    CompiledProgram first;
    /// (y0, y1).
    CompiledProgram both;
  };

  /// @param is_measured  whether calls of each sizes are evaluated in the faster way, which is found out at the first
  ///                     one; else always by the programs
  Compiled(For what, Programs programs, bool is_measured);

  /// Why such a call is not evaluated by the programs, as far as is known; empty if it is, or has not been tried yet.
  ///
  /// @param adapted  the parameters that adapt; none where there are no steps
  std::string why_not(const AdaptCall& call, const std::vector<NamedParameter>& adapted) const;

  /// Whether it is known of calls with inputs of these sizes that the programs are right.
  bool is_decided(const AdaptCall& call) const;

  /// @param why_not  why calls with inputs of these sizes are evaluated by passes; empty if they are not
  void decide(const AdaptCall& call, std::string why_not) const;

  const For& what() const { return for_; }
  const Programs& programs() const { return programs_; }
  bool is_measured() const { return is_measured_; }

 private:
  For for_;
  Programs programs_;
  bool is_measured_;
  mutable std::mutex mutex_;
  mutable std::map<std::vector<std::int64_t>, std::string> decided_;  // why not, by the sizes of inputs
  mutable std::vector<const void*> apart_;                            // where the tensors lie that were found apart

  /// Why the memory of what adapts is not its own any more; empty if it is.
  std::string why_not_apart() const;
};

/// What programs are run on in such a call: its inputs or, with Options::per_sample, the first samples of as many as
/// are adapted at once, stacked.
IT3_API Inputs inputs_of_programs(
    const Inputs& inputs, const Method& method, const Options& options, const std::vector<NamedParameter>& adapted);

/// The options that say what is computed of weights and inputs, and not what is done with it; the others as by default.
IT3_API Options compiled_options(const Options& options);

}  // namespace it3
