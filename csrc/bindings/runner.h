#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/layout.h>
#include <it3/backend/samples.h>
#include <it3/network.h>

namespace it3::python {

/// The network of one call, and what it is called with.
struct NetworkCall {
  std::shared_ptr<Network> network;
  Inputs inputs;
  std::optional<InDims> in_dims;
};

/// A way of running a model of Python's. To add one, derive a class, and name it in runners.cpp.
class Runner {
 public:
  virtual ~Runner() = default;

  /// The network for a call with these inputs, or why the model cannot be run so. While the network of an eager model
  /// lives, it holds the model's SharedModelLock: for reading if it is cut, else alone.
  ///
  /// @param in_dims  in torch.vmap's convention, or None
  /// @param each_by  of a call that adapts to each sample by itself, the prediction's layout; else null
  virtual std::variant<NetworkCall, std::string> resolve(
      const py::object& inputs, const py::object& in_dims, const Layout* each_by) = 0;

  /// The same for the two passes of a training step.
  virtual NetworkCall resolve_for_training(const py::object& inputs, const py::object& in_dims) {
    return std::get<NetworkCall>(resolve(inputs, in_dims, nullptr));
  }

  /// Why what comes before the layer is computed in both passes of a training step; empty if nothing is known.
  virtual std::string why_not_shared() const { return ""; }

  /// The same with the torch.export.ExportedProgram that the network was made of.
  virtual std::variant<std::pair<NetworkCall, py::object>, std::string> resolve_with_program(
      const py::object& /*inputs*/, const py::object& /*in_dims*/, const Layout* /*each_by*/) {
    return "it is no such model";
  }
};

}  // namespace it3::python
