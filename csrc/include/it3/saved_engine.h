#pragma once

#include <optional>
#include <string>

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/module.h>

#include <it3/embedder.h>
#include <it3/export.h>
#include <it3/layout.h>
#include <it3/options.h>

namespace it3 {

/// An engine as a file holds it: one TorchScript archive, which torch.jit.load opens as the plain network.
struct SavedEngine {
  torch::jit::Module network;
  std::string layer;
  /// The default embedder's weights; it has been shaped.
  EmbedderWeights embedder;
  Layout prediction_layout;
  Layout features_layout;
  /// One of distance_names().
  std::string distance;
  Options options;
};

/// Writes an engine. The file appears under its name when it is complete. Raises c10::Error if it cannot be written.
IT3_API void save_engine(const SavedEngine& engine, const std::string& path);

/// Reads an engine that save_engine() wrote, on a device, or on those it was saved from.
/// Raises c10::Error, naming the file, if it is missing, damaged, of another kind or of a newer format.
IT3_API SavedEngine load_engine(const std::string& path, std::optional<c10::Device> device = {});

}  // namespace it3
