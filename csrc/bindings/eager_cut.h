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
#include "output_choice.h"
#include "runner.h"
#include "shared_model_lock.h"
#include "watch.h"

namespace it3::python {

/// Cuts an eager torch.nn.Module at a layer like a TorchScript one, where that gives the same: it is exported, and
/// compared with the module, once for each kind of call and each range of sizes, and again when the module, or what its
/// forward() reads of Python, changes. May be used from several threads.
class EagerCut : public Runner {
 public:
  /// @param output, layer_output  see PythonNetwork
  EagerCut(py::object model, std::string layer, py::object output, py::object layer_output);

  std::variant<NetworkCall, std::string> resolve(
      const py::object& inputs, const py::object& in_dims, const Layout* each_by) override;

  /// Exports the model anew, as programs are not kept.
  std::variant<std::pair<NetworkCall, py::object>, std::string> resolve_with_program(
      const py::object& inputs, const py::object& in_dims, const Layout* each_by) override;

 private:
  struct Attempt {
    std::shared_ptr<ScriptNetwork> network;  // null if it failed
    std::string why;
    std::shared_ptr<const Watch> watch;  // what forward() read, where there is a network
    enum class Verdict { final, undecided, failed } verdict = Verdict::final;  // if not final, another call may tell
    bool any_sizes = false;
  };

  /// See resolve().
  ///
  /// @param program  gets the program of a cut that is made anew, where it is not null
  std::variant<NetworkCall, std::string> resolve(
      const py::object& inputs, const py::object& in_dims, const Layout* each_by, py::object* program);
  /// Forgets the cuts that changes of the module have made wrong.
  void keep_up();
  /// What was tried for such inputs; null if nothing was.
  const Attempt* known_attempt(const std::string& others, const Inputs& tensors) const;
  /// Why no call can be cut; empty if one may be.
  std::string obstacle() const;
  /// After an error in a part of an attempt; raises an interrupt. To be called where it is caught.
  static Attempt failed_by(const std::exception& error, std::string_view whose);
  /// @param any_sizes  whether the cut is to be for tensors of any sizes; else they may differ in the first dimension
  /// @param program  gets the exported program, where it is not null
  Attempt attempt(const py::object& inputs, const Inputs& tensors, bool any_sizes, py::object* program) const;
  Attempt compared(
      std::shared_ptr<ScriptNetwork> cut,
      Network& hooked,
      const Inputs& tensors,
      std::shared_ptr<const Watch> watch,
      const py::object& keeper) const;

  std::shared_ptr<SharedModelLock> lock_;
  std::mutex mutex_;  // of what follows; taken after the lock, for short
  py::object model_;
  std::string layer_;
  py::object output_;
  py::object layer_output_;
  std::unique_ptr<ModuleSnapshot> snapshot_;
  std::multimap<std::string, Attempt> attempts_;  // by all of the inputs but their sizes and values
  int undecided_ = 0;                             // attempts of that verdict
  int changes_ = 0;                               // of attributes, since the structure changed
};

/// Torch.export changes settings of the whole process while it traces, so that only one thread may; and the module that
/// is traced, with all that it shares with others, holds fake tensors meanwhile.
ModelLock lock_on_exports();
/// The lock, alone. With the GIL.
ModelLock::Turn turn_to_trace();

/// A network that has its model's lock as long as it lives.
std::shared_ptr<Network> with_hold(std::shared_ptr<Network> network, std::shared_ptr<SharedModelLock::Hold> hold);

}  // namespace it3::python
