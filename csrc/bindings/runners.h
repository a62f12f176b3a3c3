#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <it3/script_network.h>

#include "runner.h"

namespace it3::python {

/// The ways of running a model, injected into at a layer.
class Runners {
 public:
  /// @param model  a torch.nn.Module or torch.jit.ScriptModule
  /// @param output  which of the model's outputs is the prediction, or None
  /// @param layer_output  which of the layer's outputs is injected into, or None
  Runners(const py::object& model, const std::string& layer, const py::object& output, const py::object& layer_output);

  /// What a call adapts: by the first way that can run it. See Runner::resolve().
  NetworkCall resolve(const py::object& inputs, const py::object& in_dims, const Layout* each_by = nullptr) const;

  /// The same with the torch.export.ExportedProgram that its network was made of. Raises c10::ValueError, with the
  /// reason, where it was made of none.
  std::pair<NetworkCall, py::object> resolve_with_program(
      const py::object& inputs, const py::object& in_dims, const Layout* each_by) const;

  /// What runs the model by the last way, which takes all.
  NetworkCall resolve_whole(const py::object& inputs, const py::object& in_dims) const;

  /// What a call trains, in two passes: by the last way too. An eager model is never cut then, as each of its passes
  /// draws its own random numbers.
  NetworkCall resolve_for_training(const py::object& inputs, const py::object& in_dims) const;

  /// See Runner::why_not_shared().
  std::string why_not_shared() const { return runners_.back()->why_not_shared(); }

  /// Why a call with these inputs is not run in the first way; empty if it is.
  std::string why_not(const py::object& inputs, const py::object& in_dims, const Layout* each_by) const;

  const py::object& model() const { return model_; }

  /// The network of a TorchScript module; null for another model.
  std::shared_ptr<ScriptNetwork> script_network() const { return script_network_; }

 private:
  py::object model_;
  std::shared_ptr<ScriptNetwork> script_network_;
  std::vector<std::unique_ptr<Runner>> runners_;  // in the order in which they are tried
};

}  // namespace it3::python
