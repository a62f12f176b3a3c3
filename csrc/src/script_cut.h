#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <it3/normalisation.h>

#include "lifted_tensor.h"

namespace it3::detail {

/// A module's forward() in two parts, run by the plain interpreter: its results do not depend on earlier calls, as an
/// optimising executor's can.
///
///   head: (inputs..., lifted...) -> (features, crossing...)
///   tail: (features, crossing..., inputs..., lifted...) -> (result)
struct ScriptCut {
  std::uint64_t id;  // no other cut has
  torch::jit::Code head;
  torch::jit::Code tail;
  std::size_t inputs = 0;
  std::size_t crossing = 0;
  std::vector<LiftedTensor> lifted;
  /// Whether the head gives the same whenever it runs on the same: nothing in it is drawn, or written from outside.
  bool is_head_fixed = false;
  /// Whether the tail writes to what it is handed, which then needs a copy for each run.
  bool tail_writes = false;
};

/// Cuts a module behind a layer; `of_each` says whether for weights of each sample. Raises c10::ValueError as
/// ScriptNetwork does.
ScriptCut cut_script(
    const torch::jit::Module& module, const std::string& layer, const Normalisation& normalisation, bool of_each);

}  // namespace it3::detail
