#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <it3/adapt.h>
#include <it3/backend/compiled_program.h>
#include <it3/backend/export.h>
#include <it3/backend/samples.h>
#include <it3/options.h>

namespace it3 {

/// The evaluations of one network by one method as programs, which the inner loop calls in the place of passes: the
/// loss and its gradients, and the predictions. Safe to use in several threads at once.
///
/// All programs are run on the same values, in this order: the weights that adapt; where the anchor is another network,
/// its weights; `constants`; the tensors in the inputs; the samples that count, as indices, (R,) of int64; and the
/// results of `Programs::prepare`.
class IT3_API Compiled {
 public:
  /// What the programs were compiled for.
  struct For {
    std::uint64_t network = 0;  // Network::id()
    Options options = {};       // see compiled_options()
    std::vector<NamedParameter> adapted = {};
    std::vector<at::Tensor> constants = {};
    std::optional<std::vector<at::Tensor>> reads = std::nullopt;  // Method::reads
    std::optional<InDims> in_dims = std::nullopt;
    /// Of functions that may do more than torch's operations: whether they would do something else now, or read
    /// something else, than when they were compiled.
    std::function<bool()> have_functions_changed = nullptr;

    /// Checks that no parameter that adapts shares memory with another of these tensors.
    ///
    /// @throws c10::ValueError  if one does
    void check() const;
  };

  struct Programs {
    /// What no step changes, as what comes before the first layer that adapts; nothing where that is not worth it.
    std::optional<CompiledProgram> prepare;
    /// (loss, y0, gradients...), without those that are undefined.
    CompiledProgram gradients;
    /// The same by the samples that count; nothing with Options::per_sample.
    std::optional<CompiledProgram> gradients_of_rows;
    std::vector<bool> has_gradient;  // by the weights that adapt
    /// (y0).
    CompiledProgram first;
    /// (y0, y1).
    CompiledProgram both;

    /// Reads a folder that it3.compile() made: packages, each with the name of a member and ".pt2", and programs.json.
    /// The folder has to stay as long as the programs.
    ///
    /// @param device  where they run; of what is not on the CPU, they were compiled for another number of such a device
    ///
    /// @throws c10::Error  if they are damaged, or cannot be run here
    static Programs read(const std::string& folder, c10::Device device);
  };

  /// @param is_measured  whether calls of each sizes are evaluated in the faster way, which is found out at the first
  ///                     one; else always by the programs
  /// @param keeps  what is to live as long: it keeps the programs' folder
  ///
  /// @throws c10::ValueError  where For::check() does
  Compiled(For what, Programs programs, bool is_measured, std::shared_ptr<const void> keeps = nullptr);

  /// Finds out whether functions have changed, for the calls from now on, as they are before a call swaps anything in.
  void look_at_functions() const;

  /// What is known of such a call before it is made.
  struct Verdict {
    /// Why it is not evaluated by the programs; empty if nothing is against it.
    std::string why_not;
    /// Whether it is known of calls with inputs of these sizes that the programs are right.
    bool is_decided = false;
    /// Whether the weights and constants are in the memory, of the dtypes and sizes, of a call that was decided.
    bool is_same_memory = false;
  };

  /// @param adapted  the parameters that adapt; none where there are no steps
  Verdict verdict(const AdaptCall& call, const std::vector<NamedParameter>& adapted) const;

  /// @param why_not  why calls with inputs of these sizes are evaluated by passes; empty if they are not
  void decide(const AdaptCall& call, std::string why_not) const;

  const For& what() const { return for_; }
  const Programs& programs() const { return programs_; }
  bool is_measured() const { return is_measured_; }

 private:
  std::shared_ptr<const void> keeps_;
  For for_;
  Programs programs_;
  bool is_measured_;
  mutable std::atomic<bool> have_functions_changed_ = false;
  mutable std::mutex mutex_;
  mutable std::map<std::vector<std::int64_t>, std::string> decided_;  // why not, by the kinds of inputs
  mutable std::vector<std::int64_t> memory_;  // of the weights and constants, where they were found apart

  /// Why not, as far as the options and the kinds of what it is given tell.
  std::string why_not(const AdaptCall& call, const std::vector<NamedParameter>& adapted) const;
  std::vector<std::int64_t> memory() const;
};

/// What programs are run on in such a call: its inputs or, with Options::per_sample, the first samples of as many as
/// are adapted at once, stacked.
IT3_API Inputs inputs_of_programs(
    const Inputs& inputs, const Method& method, const Options& options, const std::vector<NamedParameter>& adapted);

/// The options that say what is computed of weights and inputs, and not what is done with it; the others as by default.
IT3_API Options compiled_options(const Options& options);

}  // namespace it3
