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

/// A program of torch.export, cut at one layer like a TorchScript module: its operations run one by one, by the plain
/// interpreter, with gradients. It needs neither Python nor TorchScript's compiler, and is in the mode that it was
/// exported in, so that training, too, trains what was exported.
///
/// It is called with the tensors that the program takes, flat, in their order: of positional arguments first, then of
/// keywords. Its passes raise c10::ValueError for inputs of sizes that it was not exported for.
class IT3_API ExportedNetwork : public ScriptNetwork {
 public:
  /// Reads what torch.export.save() wrote.
  ///
  /// @param layer  the dotted name of a module, as the program keeps it with each operation; "" for the whole model
  /// @param output  where the prediction is in what the model returns; nothing: its only tensor
  /// @param device  where parameters, buffers and what the program makes are; nothing: where they were
  /// @param layer_output  where the output to inject into is in what the layer returns, for which the program has to be
  ///     exported with preserve_module_call_signature=(layer,); nothing: the only tensor that leaves the layer
  ///
  /// Raises c10::Error if there is no such file. Raises c10::ValueError, naming the file, if it is damaged or holds no
  /// program; if the program has operations that are none of this torch's, blocks of their own (such as
  /// torch.no_grad(), torch.cond()) or objects other than tensors; for what mark_layer() and ScriptNetwork refuse.
  ExportedNetwork(
      const std::string& path,
      const std::string& layer,
      const std::optional<OutputPath>& output = std::nullopt,
      std::optional<c10::Device> device = std::nullopt,
      const std::optional<OutputPath>& layer_output = std::nullopt);

  /// A program that is cut at its one features_target.
  ///
  /// @param layer  the name of the layer in the network; a module is made where the program has none
  ExportedNetwork(const ExportedGraph& graph, const std::string& layer);

  std::string how() const override { return "cut at the layer, exported by torch.export"; }
};

}  // namespace it3
