#include "python_network.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

#include "python_values.h"

namespace it3::python {
namespace {

/// Puts a layer's hook on, and takes it off whatever happens.
class HookScope {
 public:
  HookScope(const py::object& layer, const py::object& hook) : handle_(layer.attr("register_forward_hook")(hook)) {}
  ~HookScope() {
    const py::gil_scoped_acquire gil;
    const py::error_scope pending;
    try {
      handle_.attr("remove")();
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("removing it3's forward hook");
    }
    handle_ = py::object();
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;

 private:
  py::object handle_;
};

/// Sets a flag while it lives.
class RunningScope {
 public:
  explicit RunningScope(bool& flag) : flag_(flag) { flag_ = true; }
  ~RunningScope() { flag_ = false; }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  bool& flag_;
};

}  // namespace

/// A PythonNetwork's passes with lent weights and buffers.
class PythonWorkingCopy : public LentWorkingCopy {
 public:
  PythonWorkingCopy(
      PythonNetwork& network, const std::vector<NamedParameter>& adapted, const Normalisation& normalisation)
      : LentWorkingCopy(adapted, parameters_and_buffers(network)),
        network_(network),
        no_recomputation_(network.layer_, network.recomputation_check()),
        buffers_({network.model_}, values()) {
    if (normalisation.statistics == NormStatistics::running) return;
    const py::object type = py::module_::import("it3.norm_statistics").attr("OtherStatistics");
    network_.norm_statistics_ = type(static_cast<int>(normalisation.statistics), normalisation.prior);
  }
  ~PythonWorkingCopy() override {
    const py::gil_scoped_acquire gil;
    network_.norm_statistics_ = py::none();
  }
  PythonWorkingCopy(const PythonWorkingCopy&) = delete;
  PythonWorkingCopy& operator=(const PythonWorkingCopy&) = delete;

  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return network_.predict(inputs, inject); }
  FirstPass prepare(const Inputs& inputs) override { return network_.prepare(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass&, const Inject* inject) override {
    return network_.run(inputs, inject);
  }

 private:
  static std::vector<at::Tensor> parameters_and_buffers(const PythonNetwork& network) {
    std::vector<at::Tensor> all = tensors_of(network.parameters());
    for (auto& buffer : buffers_of(network.model_)) all.push_back(std::move(buffer));
    return all;
  }

  PythonNetwork& network_;
  HookScope no_recomputation_;
  LentBuffers buffers_;
};

PythonNetwork::PythonNetwork(py::object model, py::object layer, std::string layer_name, py::object inputs)
    : model_(std::move(model)),
      layer_(std::move(layer)),
      layer_name_(std::move(layer_name)),
      inputs_(std::move(inputs)),
      tensors_(tensors_in(inputs_)) {}

py::object PythonNetwork::recomputation_check() const {
  return py::cpp_function([this](py::handle, py::handle, py::handle) {
    TORCH_CHECK_VALUE(
        is_running_, "the layer '", layer_name_,
        "' is called again by the backward pass, as activation checkpointing does, which would not see the injection; "
        "switch checkpointing off while the model adapts, or name a layer outside of the checkpointed blocks");
  });
}

py::object PythonNetwork::call_model(const Inputs& inputs) {
  const RunningScope running(is_running_);
  const bool are_own = std::equal(
      inputs.args.begin(), inputs.args.end(), tensors_.begin(), tensors_.end(),
      [](const c10::IValue& a, const c10::IValue& b) { return a.toTensor().is_same(b.toTensor()); });
  const Arguments arguments = arguments_of(are_own ? inputs_ : with_tensors(inputs_, inputs.args));
  if (norm_statistics_.is_none()) return model_(*arguments.args, **arguments.kwargs);
  return norm_statistics_.attr("call")(model_, arguments.args, arguments.kwargs);
}

at::Tensor PythonNetwork::run(const Inputs& inputs, const Inject* inject) {
  const py::gil_scoped_acquire gil;
  if (inject != nullptr) return run_injected(inputs, *inject);
  return prediction_in(call_model(inputs));
}

FirstPass PythonNetwork::predict(const Inputs& inputs, const Inject* inject) { return {run(inputs, inject)}; }

FirstPass PythonNetwork::prepare(const Inputs&) { return {}; }

at::Tensor PythonNetwork::run_injected(const Inputs& inputs, const Inject& inject) {
  const bool has_gradients = at::GradMode::is_enabled();
  bool was_called = false;
  const py::cpp_function hook([&](py::handle, py::handle, py::handle output) {
    was_called = true;
    TORCH_CHECK_VALUE(
        at::GradMode::is_enabled() || !has_gradients, "the layer '", layer_name_,
        "' is run without gradients, as in a torch.no_grad() block or by activation checkpointing with "
        "use_reentrant=True; an injection there could not be differentiated. Name another layer, or run it with "
        "gradients");
    py::object injected = replace_first_tensor(output, inject);
    TORCH_CHECK_TYPE(
        injected, "the layer '", layer_name_, "' returned a ", type_name(output),
        "; features can be injected into a tensor, or the first tensor in a tuple, list or mapping");
    return injected;
  });
  const HookScope scope(layer_, hook);
  at::Tensor second = prediction_in(call_model(inputs));
  TORCH_CHECK_VALUE(
      was_called, "the layer '", layer_name_,
      "' was not called by the model's forward, so nothing can be injected there. Fused paths read the weights of some "
      "layers, such as an attention's out_proj, without calling them: name the layer around it");
  return second;
}

at::Tensor PythonNetwork::resume(const Inputs& inputs, const FirstPass&, const Inject* inject) {
  const py::gil_scoped_acquire gil;
  const LentBuffers buffers({model_});  // running statistics are the first pass's to update
  return run(inputs, inject);
}

std::vector<NamedParameter> PythonNetwork::parameters() const {
  const py::gil_scoped_acquire gil;
  return parameters_of(model_);
}

std::unique_ptr<WorkingCopy> PythonNetwork::checkout(
    const std::vector<NamedParameter>& adapted, const Normalisation& normalisation) {
  const py::gil_scoped_acquire gil;
  return std::make_unique<PythonWorkingCopy>(*this, adapted, normalisation);
}

}  // namespace it3::python
