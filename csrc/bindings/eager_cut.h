#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <torch/csrc/utils/pybind.h>

#include <it3/network.h>
#include <it3/script_network.h>

#include "module_snapshot.h"

namespace it3::python {

/// The network and the inputs of one call.
using NetworkCall = std::pair<std::shared_ptr<Network>, Inputs>;

/// Cuts an eager torch.nn.Module at a layer like a TorchScript one, where that gives the same: it is traced, compiled
/// and compared with the module once for each kind of call, and again when the module changes. May be used from several
/// threads.
class EagerCut {
 public:
  EagerCut(py::object model, std::string layer);

  /// Nothing where the module has to be run with hooks; why() then says why.
  std::optional<NetworkCall> call(const py::object& inputs);

  /// Why the last call could not be made on a cut; empty if it could.
  const std::string& why() const { return why_; }

 private:
  struct Attempt {
    std::shared_ptr<Network> network;  // null if it failed
    std::string why;
  };

  /// Forgets the cuts that changes of the module have made wrong.
  void keep_up();
  /// Nothing if the model itself raises an exception, which the next inputs may not do.
  std::optional<Attempt> attempt(const py::object& inputs, const Inputs& tensors) const;

  std::mutex mutex_;
  py::object model_;
  std::string layer_;
  std::unique_ptr<ModuleSnapshot> snapshot_;
  std::map<std::string, Attempt> attempts_;  // by what of the inputs is no tensor
  int changes_ = 0;                          // of attributes, since the structure changed
  std::string why_;
};

}  // namespace it3::python
