#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>
#include <it3/backend/feedback.h>
#include <it3/backend/layout.h>
#include <it3/backend/output_path.h>
#include <it3/backend/samples.h>
#include <it3/embedder.h>
#include <it3/method.h>
#include <it3/options.h>
#include <it3/script_network.h>

namespace it3 {

namespace detail {
class NewFile;
}

/// What a file says of the call that it was saved with, for people to read. Tensors as "Float [6, 13]".
struct Notes {
  /// The network's class.
  std::string model = {};
  /// What it was called with.
  std::vector<std::string> inputs = {};
  /// The first prediction, and the output of the layer that is injected into.
  std::string prediction = {};
  std::string features = {};
};

/// An engine as a file holds it: one TorchScript archive, which torch.jit.load opens as the plain network. Its extra
/// record `it3_engine` is a pickled dictionary; functions of the user's own are TorchScript archives in the records
/// `it3_embedder`, `it3_combine` and `it3_distance`.
struct SavedEngine {
  torch::jit::Module network;
  std::string layer = {};
  /// The default embedder's weights, shaped; or another embedder, see ScriptFunction.
  std::variant<EmbedderWeights, torch::jit::Module> embedder = {};
  Layout prediction_layout = {};
  Layout features_layout = {};
  /// Nothing for broadcast_add().
  std::optional<torch::jit::Module> combine = {};
  /// One of distance_names(), or a function.
  std::variant<std::string, torch::jit::Module> distance = {};
  Options options = {};
  /// See Method::neutral.
  at::Tensor neutral = {};
  Notes notes = {};
  /// See ScriptNetwork.
  std::optional<OutputPath> output = std::nullopt;
  std::optional<OutputPath> layer_output = std::nullopt;
  /// See Engine.
  std::optional<InDims> in_dims = std::nullopt;
  Feedback feedback = Feedback::automatic;
  bool is_trained = false;
  bool learned_probabilities = false;
};

/// The notes of one call.
IT3_API Notes take_notes(ScriptNetwork& network, const Method& method, const Inputs& inputs);

/// Writes an engine, and reads it back. The file appears under its name when the caller commits it.
///
/// Raises c10::Error if it cannot be written, and c10::ValueError if it is another engine when it is read back, as
/// TorchScript's files do not hold every name.
IT3_API void save_engine(const SavedEngine& engine, detail::NewFile& file);

/// Reads an engine that save_engine() wrote, on a device, or on those it was saved from.
/// Raises c10::Error, naming the file, if it is missing, damaged, of another kind or of another format.
IT3_API SavedEngine load_engine(const std::string& path, std::optional<c10::Device> device = {});

/// Writes a module as plain TorchScript, as save_engine() writes an engine.
IT3_API void save_module(
    const torch::jit::Module& module, detail::NewFile& file, const torch::jit::ExtraFilesMap& extra = {});

}  // namespace it3
