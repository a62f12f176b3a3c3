#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>
#include <it3/backend/online.h>

namespace it3 {

/// What of an engine training and adaptation change: all that another one, around a like network, needs to go on.
struct EngineState {
  /// By the names of Python's IT3Engine.state_dict(): parameters and buffers as "model.NAME", the default embedder's as
  /// "embedder.NAME".
  std::map<std::string, at::Tensor> tensors = {};
  bool is_trained = false;
  bool learned_probabilities = false;
  /// What calls keep that adapt for good.
  Online::State online = {};

  /// Raises c10::ValueError unless its tensors are those of an engine, by names and shapes; an embedder's may be empty.
  IT3_API void check_fits(const std::map<std::string, at::Tensor>& own) const;
};

/// A state as a dictionary of plain values, and back. Raises c10::Error if it is none.
IT3_API c10::IValue to_ivalue(const EngineState& state);
IT3_API EngineState state_from(const c10::IValue& dict);

/// Writes a state. The file appears under its name when it is complete. It is a dictionary of torch::pickle_save(),
/// which Python's torch.load reads without `weights_only`; IT3Engine.load_state_dict() takes the "state_dict" in it.
///
/// Raises c10::Error if it cannot be written.
IT3_API void write_state(const EngineState& state, const std::string& path);

/// Raises c10::Error, with the file's name, if it is missing, damaged, or no state of an engine.
IT3_API EngineState read_state(const std::string& path);

}  // namespace it3
