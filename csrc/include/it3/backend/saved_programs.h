#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <it3/backend/export.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3 {

class Compiled;

/// A file's compiled programs for its engine, which name the tensors that they are run on, as they hold none.
struct IT3_API SavedPrograms {
  /// See Compiled::Programs::read(); null while they are being saved.
  std::shared_ptr<const void> keeps = nullptr;
  std::string folder = {};
  /// Why they could not be unpacked; empty if they were.
  std::string fault = {};

  /// The layer that the network is cut at.
  std::string layer = {};
  /// See compiled_options().
  Options options = {};
  /// See Compiled.
  bool is_measured = false;

  /// The names of the network's parameters that adapt.
  std::vector<std::string> adapted = {};
  /// "model." and the name of one of the network's parameters or buffers; "embedder.weight1", "embedder.bias1",
  /// "embedder.weight2", "embedder.bias2"; "neutral"; "embedder.", "combine." or "distance." and the name of a tensor
  /// of such a function; or a tensor of the programs' own.
  std::vector<std::variant<std::string, at::Tensor>> constants = {};

  /// What they were compiled for: torch's version, and machine_of() of a device of this type.
  std::string torch = {};
  c10::DeviceType device_type = c10::kCPU;
  std::vector<std::string> machine = {};

  /// Why they cannot be run by this torch on this device; empty if they can.
  std::string why_not(c10::Device device) const;

  /// The programs, for calls of a network by a method. Raises c10::Error where they do not fit each other.
  ///
  /// @param of_functions  the tensors of embedder, combine and distance, by these names
  /// @param have_functions_changed  see Compiled::For
  std::shared_ptr<const Compiled> bind(
      const Network& network,
      const Method& method,
      const std::map<std::string, at::Tensor>& of_functions,
      std::function<bool()> have_functions_changed = nullptr) const;
};

/// The version of torch that this it3 was built against, such as "2.13.0".
IT3_API std::string torch_version();

}  // namespace it3
