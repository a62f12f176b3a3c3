#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include <it3/backend/swapped_working_copy.h>
#include <it3/network.h>

#include "module_tree.h"
#include "output_choice.h"
#include "swapped_state.h"

namespace it3::python {

/// An eager torch.nn.Module, run again with a forward hook on one layer, together with the inputs of one call, which
/// can be Python objects of any kind: the passes are given the tensors in them, those of tensors_in(). The passes take
/// the GIL; everything else is called with it held.
///
/// The passes of a working copy run in eval mode, on copies of everything that forward() may write to. What one leaves
/// there, the next finds, unless it hangs on a graph of autograd.
class PythonNetwork : public Network {
 public:
  /// @param inputs  a tensor or another object f(x), a tuple or list f(*x), a mapping f(**x)
  /// @param output  which of the model's outputs is the prediction
  /// @param layer_output  which of the layer's outputs is injected into; the first tensor if nothing
  /// @param shared_head  an it3.cutting.shared_head.SharedHeadStep, for passes that come in twos, predict() and
  /// resume(); or None
  PythonNetwork(
      py::object model,
      py::object layer,
      std::string layer_name,
      py::object inputs,
      OutputChoice output = {},
      std::optional<OutputPath> layer_output = std::nullopt,
      py::object shared_head = py::none());

  /// Alone, as other storage is swapped into the model's tensors, which other models may share.
  bool swaps_weights() const override { return true; }
  ModelLock::Turn take_turn() const override;
  FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) override;
  FirstPass prepare(const Inputs&) override;
  at::Tensor resume(const Inputs& inputs, const FirstPass&, const Inject* inject) override;
  std::vector<NamedParameter> parameters() const override;
  std::string layer_name() const override { return layer_name_; }
  std::string how() const override { return "run whole, with a hook on the layer"; }
  std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalization& normalization = {}) override;

 private:
  friend class PythonWorkingCopy;
  py::object call_model(const Inputs& inputs);
  /// A hook for the layer that raises c10::ValueError if it is called outside of a pass.
  py::object recomputation_check() const;
  at::Tensor run(const Inputs& inputs, const Inject* inject);
  at::Tensor run_with_hook(const Inputs& inputs, const Inject* inject);
  /// Nothing if the head has to be run again.
  std::optional<at::Tensor> resume_behind_head(const Inputs& inputs, const Inject* inject);

  py::object model_;
  py::object layer_;
  std::string layer_name_;
  py::object inputs_;
  std::vector<c10::IValue> tensors_;
  py::object norm_statistics_ = py::none();  // a working copy's PythonParts::other_statistics, or None
  OutputChoice output_;
  std::optional<OutputPath> layer_output_;
  py::object shared_head_;
  bool shares_head_ = false;        // in this pass, or the last
  std::optional<KeptState> given_;  // the model's, before the last pass that was not a working copy's
  KeptState objects_;               // those in the inputs
};

}  // namespace it3::python
