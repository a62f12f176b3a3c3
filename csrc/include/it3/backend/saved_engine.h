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

/// What a file notes about the call that it was saved with, for people to read. Tensors are written as "Float [6, 13]".
struct Notes {
  /// The class of the network.
  std::string model = {};
  /// The inputs.
  std::vector<std::string> inputs = {};
  /// The first prediction, y0.
  std::string prediction = {};
  /// The output of the layer.
  std::string features = {};
};

/// A network, or a function of the user's own, in a file: TorchScript, or a program of torch.export.
using SavedModule = std::variant<torch::jit::Module, ExportedGraph>;

/// An engine as a file holds it.
///
/// @code{.cpp}
/// it3::SavedEngine saved = it3::load_engine("engine.pt");
/// std::cout << saved.notes.model << " of " << saved.notes.inputs << ", cut at " << saved.layer << '\n';
/// saved.options.num_steps = 1;
/// it3::Engine engine(std::move(saved));
/// @endcode
///
/// There are two kinds of files. torch opens both as the plain network:
/// - TorchScript, with the extra record `it3_engine`, a pickled dictionary; functions of the user's own are TorchScript
///   archives in the records `it3_embedder`, `it3_combine` and `it3_distance`;
/// - a program of torch.export, with the same dictionary in the record `it3/engine`, and compiled programs in
///   `it3/programs.json` and `it3/NAME.pt2`; functions of the user's own are files of torch.export.save() in the
///   records `it3/embedder.pt2`, `it3/combine.pt2` and `it3/distance.pt2`.
struct SavedEngine {
  /// The whole network, not cut.
  SavedModule network;
  /// The dotted name of the layer.
  std::string layer = {};
  /// The default embedder's weights; or another embedder, see function_of().
  std::variant<EmbedderWeights, SavedModule> embedder = {};
  /// Which dimensions of predictions are samples and channels.
  Layout prediction_layout = {};
  /// Which dimensions of features are samples and channels.
  Layout features_layout = {};
  /// Unset for broadcast_add().
  std::optional<SavedModule> combine = {};
  /// One of distance_names(), or a function.
  std::variant<std::string, SavedModule> distance = {};
  /// How to adapt.
  Options options = {};
  /// Anything but a function.
  Neutral neutral = {};
  /// The call that it was saved with.
  Notes notes = {};
  /// See ScriptNetwork::output().
  std::optional<OutputPath> output = std::nullopt;
  /// See ScriptNetwork::layer_output().
  std::optional<OutputPath> layer_output = std::nullopt;
  /// See Engine::in_dims.
  std::optional<InDims> in_dims = std::nullopt;
  /// See Engine::feedback.
  Feedback feedback = Feedback::automatic;
  /// See Engine::is_trained().
  bool is_trained = false;
  /// See EngineState::learned_probabilities.
  bool learned_probabilities = false;
  /// See Engine::calibrated_range().
  std::optional<PredictionRange> calibrated_range = std::nullopt;
  /// Compiled programs; unset if the file has none.
  std::optional<SavedPrograms> programs = std::nullopt;

  /// The parameters of the network, which may have none.
  IT3_API std::vector<at::Tensor> parameters() const;
  /// The device of the first parameter.
  IT3_API c10::Device device() const;
  /// The tensors that functions of the user's own may write to.
  IT3_API std::vector<at::Tensor> buffers_of_functions() const;
  /// The tensors of functions that are programs of torch.export, by the names in SavedPrograms::constants.
  IT3_API std::map<std::string, at::Tensor> tensors_of_functions() const;
};

/// A function in a file as a ScriptFunction or an ExportedFunction, which can be called.
IT3_API std::function<at::Tensor(const at::Tensor&, const at::Tensor&)> function_of(const SavedModule& saved);

/// The notes about one call.
IT3_API Notes take_notes(ScriptNetwork& network, const Method& method, const Inputs& inputs);

/// Writes an engine around a TorchScript module, and reads it back to compare. The file appears under its name when the
/// caller commits it. Engine::save() is the usual way to write one.
///
/// @throws c10::Error  if the file cannot be written
/// @throws c10::ValueError  if the engine that is read back differs, as TorchScript's files cannot hold every name
IT3_API void save_engine(const SavedEngine& engine, detail::NewFile& file);

/// What a file holds beside the network and the programs, pickled.
IT3_API std::string description_of(const SavedEngine& engine);

/// Reads an engine that Engine::save() or Python's IT3Engine.save() has written.
///
/// @param path  the file
/// @param device  where its tensors are put. Unset: on the devices that they were saved from
/// @throws c10::Error  naming the file, if it is missing, damaged, of another kind or of another version of the format
IT3_API SavedEngine load_engine(const std::string& path, std::optional<c10::Device> device = {});

}  // namespace it3
