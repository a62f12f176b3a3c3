#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <it3/backend/normalization.h>

#include "torchscript/lifted_tensor.h"
#include "torchscript/script_injection.h"

namespace it3::detail {

/// The kinds of inputs that a cut has been compared with its module on. Safe to use in several threads at once.
class ComparedInputs {
 public:
  bool contain(std::uint64_t kind) const {
    const std::scoped_lock lock(mutex_);
    const auto found = attempts_.find(kind);
    return found != attempts_.end() && found->second >= enough;
  }
  /// @param is_decided  false where another try may say more, of which there is one
  void add(std::uint64_t kind, bool is_decided) {
    const std::scoped_lock lock(mutex_);
    attempts_[kind] += is_decided ? enough : 1;
  }

 private:
  static constexpr int enough = 2;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, int> attempts_;
};

/// A module's forward() in two parts, run by the plain interpreter: its results do not depend on earlier calls, as an
/// optimizing executor's can.
///
///   head: (inputs..., lifted...) -> (features, crossing...)
///   tail: (features, crossing..., inputs..., lifted...) -> (result)
struct ScriptCut {
  std::uint64_t id = 0;  // no other cut has
  CutPlace place;
  torch::jit::Code head;
  torch::jit::Code tail;
  torch::jit::Code whole;  // the module's forward() as it stands: (module, inputs...) -> (what it returns)
  std::size_t inputs = 0;
  std::size_t crossing = 0;
  std::vector<LiftedTensor> lifted;
  std::vector<FoldedAttribute> folded;
  std::optional<OutputPath> output;  // in the tail's result; nothing: its only tensor
  bool draws_random_numbers = false;
  /// Why the head may give something else when it runs once more on the same: something in it is drawn, or written from
  /// outside. Empty if it gives the same.
  std::string why_head_may_differ;
  /// Whether each pass needs a run of its own of the head: it changes what the module keeps from call to call, or draws
  /// random numbers in training.
  bool repeats_head = false;
  bool writes_inputs = false;
  /// Which of (features, crossing..., inputs...) the tail writes to: it then needs a copy for each run.
  std::vector<bool> written_in_tail;
  std::shared_ptr<ComparedInputs> compared = std::make_shared<ComparedInputs>();

  /// Whether the attributes of the module that it was made for are as they were.
  bool is_current() const;
};

/// Cuts a module behind a layer.
///
/// @param in_eval_mode  whether every `training` flag counts as false; else they count as they are
/// @param per_sample  whether for weights of each sample
///
/// Raises c10::ValueError as ScriptNetwork does.
ScriptCut cut_script(
    const torch::jit::Module& module,
    const CutPlace& place,
    bool in_eval_mode,
    const Normalization& normalization,
    bool per_sample);

}  // namespace it3::detail
