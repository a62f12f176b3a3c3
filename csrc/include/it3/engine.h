#pragma once

#include <memory>
#include <optional>
#include <string>

#include <c10/core/Device.h>

#include <it3/adapt.h>
#include <it3/embedder.h>
#include <it3/export.h>
#include <it3/losses.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/online.h>
#include <it3/options.h>

namespace it3 {

/// A network, an embedder and options: IT3 for C++ programs. Training is losses(), inference is adapt().
class IT3_API Engine {
 public:
  /// `combine` adds with broadcasting, and `distance` is the mean squared error, unless they are given.
  explicit Engine(
      std::shared_ptr<Network> network,
      Options options = {},
      Embedder embedder = Embedder(),
      Combine combine = nullptr,
      std::optional<Distance> distance = {});

  /// May be changed between calls.
  Options options;

  /// Its parameters belong into the training optimiser, beside the model's.
  const Embedder& embedder() const { return embedder_; }

  /// See training_losses().
  Losses losses(const Inputs& inputs, const std::optional<at::Tensor>& target = {});

  /// See it3::adapt(). With Options::copy_model false, adapted weights stay until reset().
  Adaptation adapt(const Inputs& inputs, bool with_second = false);

  /// See it3::uncertainty().
  at::Tensor uncertainty(const Inputs& inputs);

  /// Goes back to the weights from before the first call that kept adapted ones.
  void reset();

  /// Writes the engine to one file, see save_engine(). Raises c10::ValueError unless its network is a ScriptNetwork,
  /// its embedder has been shaped by a call, combine is the default and the distance has a name.
  void save(const std::string& path) const;

  /// Reads an engine that save(), in C++ or Python, wrote; on a device, or on those it was saved from.
  static Engine load(const std::string& path, std::optional<c10::Device> device = {});

 private:
  std::shared_ptr<Network> network_;
  bool has_default_combine_;
  Embedder embedder_;
  Method method_;
  Online online_;
};

}  // namespace it3
