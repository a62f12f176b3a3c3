#pragma once

#include <map>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>
#include <it3/backend/online.h>

namespace it3 {

/// The part of an engine that training and adaptation change: all that an engine around a network of the same structure
/// needs to go on. See Engine::state().
///
/// @code{.cpp}
/// it3::EngineState state = engine.state();
/// for (const auto& [name, tensor] : state.tensors) std::cout << name << ' ' << tensor.sizes() << '\n';
/// it3::write_state(state, "state.pt");
/// engine.set_state(it3::read_state("state.pt"));
/// @endcode
struct EngineState {
  /// Parameters and buffers as "model.NAME", the default embedder's as "embedder.NAME": the names of Python's
  /// IT3Engine.state_dict().
  std::map<std::string, at::Tensor> tensors = {};
  /// See Engine::is_trained().
  bool is_trained = false;
  /// Whether training had class indices as targets for predictions that are not probabilities themselves.
  bool learned_probabilities = false;
  /// What calls with Options::copy_model false have kept.
  Online::State online = {};

  /// Checks that these tensors have the names and shapes of an engine's. Those of an embedder may be empty in either.
  ///
  /// @throws c10::ValueError  naming what is missing, unexpected or of another shape
  IT3_API void check_fits(const std::map<std::string, at::Tensor>& own) const;
};

/// A state as a dictionary of plain values.
IT3_API c10::IValue to_ivalue(const EngineState& state);
/// The state in such a dictionary.
///
/// @throws c10::Error  for a dictionary that holds no state
IT3_API EngineState state_from(const c10::IValue& dict);

/// Writes a state to a file, which appears under its name when it is complete. It holds a dictionary, as
/// torch::pickle_save() writes it. Python reads it with torch.load(path, weights_only=False); its "state_dict" is for
/// IT3Engine.load_state_dict().
///
/// @throws c10::Error  if the file cannot be written
IT3_API void write_state(const EngineState& state, const std::string& path);

/// Reads a state that write_state() has written.
///
/// @throws c10::Error  with the file's name, if it is missing, damaged, or holds no state of an engine
IT3_API EngineState read_state(const std::string& path);

}  // namespace it3
