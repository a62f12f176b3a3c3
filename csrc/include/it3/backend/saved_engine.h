#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>
#include <it3/backend/exported_graph.h>
#include <it3/backend/feedback.h>
#include <it3/backend/layout.h>
#include <it3/backend/output_path.h>
#include <it3/backend/prediction_range.h>
#include <it3/backend/samples.h>
#include <it3/backend/saved_programs.h>
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

/// A network, or a function of the user's own: TorchScript, or a program of torch.export.
using SavedModule = std::variant<torch::jit::Module, ExportedGraph>;

/// An engine as a file holds it. There are two kinds of files, and torch opens both as the plain network:
/// - TorchScript, with the extra record `it3_engine`, a pickled dictionary; functions of the user's own are TorchScript
///   archives in the records `it3_embedder`, `it3_combine` and `it3_distance`;
/// - a program of torch.export, with the same dictionary in the record `it3/engine`, and compiled programs in
///   `it3/programs.json` and `it3/NAME.pt2`; functions of the user's own are files of torch.export.save() in the
///   records `it3/embedder.pt2`, `it3/combine.pt2` and `it3/distance.pt2`.
struct SavedEngine {
  SavedModule network;
  std::string layer = {};
  /// The default embedder's weights, shaped, or none; or another embedder, see function_of().
  std::variant<EmbedderWeights, SavedModule> embedder = {};
  Layout prediction_layout = {};
  Layout features_layout = {};
  /// Nothing for broadcast_add().
  std::optional<SavedModule> combine = {};
  /// One of distance_names(), or a function.
  std::variant<std::string, SavedModule> distance = {};
  Options options = {};
  /// No function.
  Neutral neutral = {};
  Notes notes = {};
  /// See ScriptNetwork.
  std::optional<OutputPath> output = std::nullopt;
  std::optional<OutputPath> layer_output = std::nullopt;
  /// See Engine.
  std::optional<InDims> in_dims = std::nullopt;
  Feedback feedback = Feedback::automatic;
  bool is_trained = false;
  bool learned_probabilities = false;
  std::optional<PredictionRange> calibrated_range = std::nullopt;
  std::optional<SavedPrograms> programs = std::nullopt;

  /// Of the network, which can have none.
  IT3_API std::vector<at::Tensor> parameters() const;
  /// The first parameter's.
  IT3_API c10::Device device() const;
  /// What functions of the user's own may write to.
  IT3_API std::vector<at::Tensor> buffers_of_functions() const;
  /// The tensors of those that are programs of torch.export, as SavedPrograms::constants names them.
  IT3_API std::map<std::string, at::Tensor> tensors_of_functions() const;
};

/// A function of a file, to be called: a ScriptFunction or an ExportedFunction.
IT3_API std::function<at::Tensor(const at::Tensor&, const at::Tensor&)> function_of(const SavedModule& saved);

/// The notes of one call.
IT3_API Notes take_notes(ScriptNetwork& network, const Method& method, const Inputs& inputs);

/// Writes an engine around a TorchScript module, and reads it back. The file appears under its name when the caller
/// commits it.
///
/// Raises c10::Error if it cannot be written, and c10::ValueError if it is another engine when it is read back, as
/// TorchScript's files do not hold every name.
IT3_API void save_engine(const SavedEngine& engine, detail::NewFile& file);

/// What a file holds of an engine beside its network and its programs, pickled.
IT3_API std::string description_of(const SavedEngine& engine);

/// Reads an engine that save_engine() or Python wrote, on a device, or on those it was saved from.
/// Raises c10::Error, naming the file, if it is missing, damaged, of another kind or of another format.
IT3_API SavedEngine load_engine(const std::string& path, std::optional<c10::Device> device = {});

}  // namespace it3
