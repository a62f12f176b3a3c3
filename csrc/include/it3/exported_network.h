#pragma once

#include <optional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include <it3/backend/export.h>
#include <it3/backend/exported_graph.h>
#include <it3/backend/output_path.h>
#include <it3/script_network.h>

namespace it3 {

/// A program of torch.export as a network, cut at one layer. Its operations run one by one in a plain interpreter, with
/// gradients; that needs neither Python nor TorchScript's compiler. It stays in the mode, train or eval, that it was
/// exported in.
///
/// The inputs are the program's tensors, flat and in their order: those of positional arguments first, then those of
/// keywords. Passes throw c10::ValueError for inputs of sizes that the program was not exported for.
///
/// @code{.cpp}
/// auto network = std::make_shared<it3::ExportedNetwork>("model.pt2", "encoder");  // of Python's torch.export.save()
/// it3::Engine engine(network, {.lr = 1e-4});
/// it3::Losses losses = engine.losses(x, y);
/// at::Tensor prediction = engine.adapt(x).prediction;
/// @endcode
class IT3_API ExportedNetwork : public ScriptNetwork {
 public:
  /// Reads a file that torch.export.save() has written.
  ///
  /// @param path  the file
  /// @param layer  the dotted name of a module of the exported model; "" for the whole model
  /// @param output  which tensor of the model's output is the prediction. Unset: its only tensor
  /// @param device  where parameters, buffers and tensors that the program creates are put. Unset: where they were
  /// @param layer_output  which tensor of the layer's output is injected into; needs an export with
  ///     preserve_module_call_signature=(layer,). Unset: the only tensor of the layer that is used behind it
  /// @throws c10::Error  if there is no such file
  /// @throws c10::ValueError  naming the file, if it is damaged or holds no program; if the program has operations that
  ///     this torch does not have, blocks such as torch.no_grad() or torch.cond(), or objects other than tensors; and
  ///     where mark_layer() and ScriptNetwork throw it
  ExportedNetwork(
      const std::string& path,
      const std::string& layer,
      const std::optional<OutputPath>& output = std::nullopt,
      std::optional<c10::Device> device = std::nullopt,
      const std::optional<OutputPath>& layer_output = std::nullopt);

  /// A program in memory that mark_layer() has marked.
  ///
  /// @param graph  the program
  /// @param layer  the name of the layer in the network; a module of this name is made if the program has none
  ExportedNetwork(const ExportedGraph& graph, const std::string& layer);

  std::string how() const override { return "cut at the layer, exported by torch.export"; }
};

}  // namespace it3
