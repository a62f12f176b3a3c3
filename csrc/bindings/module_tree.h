#pragma once

#include <functional>
#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <it3/network.h>

namespace it3::python {

using VisitModule = std::function<void(const std::string& path, py::handle module)>;

/// Calls visit for a torch.nn.Module and those in it, each once, parents first.
void for_each_module(py::handle root, const VisitModule& visit);

/// The parameters of a torch.nn.Module, as Network::parameters() wants them. Raises c10::ValueError for parameters of
/// lazy modules that were never run.
std::vector<NamedParameter> parameters_of(py::handle module);

/// The submodule of a dotted name; "" is the module itself. Raises c10::ValueError, with the nearest name, if there is
/// none.
py::object submodule_of(const py::object& root, const std::string& name);

/// The buffers of a torch.nn.Module that autograd can use: not those made in inference mode.
std::vector<at::Tensor> buffers_of(py::handle module);

/// Whether a part of a model is run by torch.compile.
bool has_compiled_parts(const py::object& model);

/// Of the buffers, those that count the batches that normalization has seen.
std::vector<at::Tensor> batch_counters_of(const py::object& model);

/// Gives modules copies of their buffers while it lives, so that nothing that a pass writes or assigns there stays.
/// Buffers over one memory share it in their copies.
class SwappedBuffers {
 public:
  /// @param swapped  copies that a SwappedWeights has swapped in: buffers over their memory follow them
  explicit SwappedBuffers(const std::vector<py::object>& modules, const std::vector<at::Tensor>& swapped = {});
  /// Acquires the GIL.
  ~SwappedBuffers();
  SwappedBuffers(const SwappedBuffers&) = delete;
  SwappedBuffers& operator=(const SwappedBuffers&) = delete;

  /// Swaps in new copies of those that hang on a pass's graph of autograd.
  void drop_graphs();

 private:
  struct Slot {
    py::object buffers;  // a module's mapping of its buffers
    py::object name;
    py::object own;
  };
  std::vector<Slot> slots_;
};

}  // namespace it3::python
