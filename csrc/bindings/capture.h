#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/compiled.h>

#include "python_engine.h"
#include "watch.h"

namespace it3::python {

/// One kind of call of an engine, whose evaluations are recorded to make programs of them.
class Capture {
 public:
  /// @param inputs  an example
  ///
  /// Raises c10::ValueError where the model is not cut at the layer by way of torch.export, where no parameter adapts,
  /// and where what changes shares memory with what does not.
  Capture(const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options);

  /// The torch.export.ExportedProgram of the model.
  py::object program() const { return program_; }
  const Options& options() const { return options_; }
  std::vector<at::Tensor> adapted() const { return tensors_of(adapted_); }
  /// The tensors that the method reads: the embedder's, and the neutral signal if there is one.
  std::vector<at::Tensor> reads() const;
  /// Nothing if there is none.
  std::optional<at::Tensor> neutral() const;
  /// Whether the method has functions of the user's own, which may do more than torch's operations.
  bool has_functions() const { return !method_.reads.has_value(); }
  /// Of all that is computed, what neither the program nor the tensors tell.
  std::string description() const;
  /// The tensors in the example, as the programs get them.
  const std::vector<at::Tensor>& inputs() const { return inputs_; }

  /// See TracedEvaluation.
  ///
  /// @param network  has head(weights, inputs), a list of tensors and sizes, and tail(these, a function of features or
  ///                 None), the prediction
  std::vector<std::optional<at::Tensor>> step(
      const py::object& network,
      const std::vector<at::Tensor>& weights,
      const std::vector<at::Tensor>& anchor,
      const std::vector<at::Tensor>& inputs,
      const std::optional<at::Tensor>& rows);
  std::vector<std::optional<at::Tensor>> answer(
      const py::object& network,
      const std::vector<at::Tensor>& weights,
      const std::vector<at::Tensor>& inputs,
      bool with_second);

  /// What programs are made for. Raises c10::ValueError where the constants share memory with what adapts.
  ///
  /// @param constants  what is read beside what adapts
  /// @param watch  of the user's own functions
  Compiled::For what(std::vector<at::Tensor> constants, const std::shared_ptr<Watch>& watch = nullptr) const;

  /// Lets the model go, so that other threads may change it. Nothing can be recorded any more.
  void close() { network_.reset(); }

 private:
  struct Resolved {
    NetworkCall call;
    py::object program;
  };
  static Resolved resolve(const PythonSetup& setup, const py::object& inputs, const Options& options);
  Capture(PythonEngine::Setup setup, Options options, Resolved resolved);

  template <typename Work>
  std::vector<std::optional<at::Tensor>> trace(
      const py::object& network,
      const std::vector<at::Tensor>& weights,
      const std::vector<at::Tensor>& anchor,
      const std::vector<at::Tensor>& inputs,
      const Work& work);

  PythonEngine::Setup setup_;
  Options options_;
  py::object program_;
  std::shared_ptr<Network> network_;
  std::uint64_t network_id_;
  Method method_;
  std::vector<NamedParameter> adapted_;
  std::vector<at::Tensor> inputs_;
};

}  // namespace it3::python
