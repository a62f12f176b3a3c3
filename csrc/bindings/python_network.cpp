#include "python_network.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <c10/util/ScopeExit.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/python_variable.h>

#include "eager_cut.h"
#include "every_parameter.h"
#include "no_fast_path.h"
#include "python_parts.h"
#include "python_values.h"
#include "shared_model_lock.h"
#include "translated.h"

namespace it3::python {
namespace {

/// Puts a layer's hook on, and takes it off whatever happens: past register_forward_hook() and its handle, whose Python
/// code a Ctrl-C could end halfway.
class HookScope {
 public:
  HookScope(const py::object& layer, py::object hook) : hooks_(layer.attr("_forward_hooks")), hook_(std::move(hook)) {
    if (PyObject_SetItem(hooks_.ptr(), hook_.ptr(), hook_.ptr()) != 0) throw py::error_already_set();
  }
  ~HookScope() {
    const py::gil_scoped_acquire gil;
    const py::error_scope pending;
    if (PyObject_DelItem(hooks_.ptr(), hook_.ptr()) != 0) PyErr_Clear();  // somebody has removed it
    hooks_ = py::object();
    hook_ = py::object();
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;

 private:
  py::object hooks_, hook_;
};

/// Stands for a pass that runs in this thread while it lives.
class RunningScope {
 public:
  RunningScope() { ++count; }
  ~RunningScope() { --count; }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

  static bool is_any() { return count > 0; }

 private:
  inline static thread_local int count = 0;
};

/// Ends a pass of a SharedHeadStep, in whichever way it ends.
class EndOfPass {
 public:
  explicit EndOfPass(const py::object& shared_head) : end_(shared_head.attr("end")) {}
  ~EndOfPass() {
    const py::error_scope pending;
    if (PyObject_CallNoArgs(end_.ptr()) == nullptr) PyErr_Clear();
  }
  EndOfPass(const EndOfPass&) = delete;
  EndOfPass& operator=(const EndOfPass&) = delete;

 private:
  py::object end_;
};

std::vector<at::Tensor> tensors_of_pass(const Inputs& inputs) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(inputs.args.size());
  for (const c10::IValue& input : inputs.args) tensors.push_back(input.toTensor());
  return tensors;
}

/// Has a model for this thread alone, in eval mode.
struct ModelAlone {
  explicit ModelAlone(const py::object& model)
      : hold(SharedModelLock::of(model), SharedModelLock::Use::alone), eval(std::make_unique<EvalScope>(model)) {}

  SharedModelLock::Hold hold;
  std::unique_ptr<EvalScope> eval;
};

}  // namespace

/// A PythonNetwork's passes with swapped weights, buffers and state.
class PythonWorkingCopy : private ModelAlone, public SwappedWorkingCopy {
 public:
  PythonWorkingCopy(
      PythonNetwork& network, const std::vector<NamedParameter>& adapted, const Normalization& normalization)
      : ModelAlone(network.model_),
        SwappedWorkingCopy(adapted, parameters_and_buffers(network), every_parameter(network.model_, adapted)),
        network_(network),
        no_recomputation_(network.layer_, network.recomputation_check()),
        buffers_({network.model_}, values()),
        state_(network.model_) {
    if (normalization.statistics == NormStatistics::running) return;
    network_.norm_statistics_ = python_parts().other_statistics(
        py::cpp_function(
            translated([normalization](
                           const at::Tensor& x, const at::Tensor& running_mean, const at::Tensor& running_var,
                           const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias, double eps) {
              return batch_norm(
                  x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), running_mean, running_var, eps,
                  normalization);
            })));
  }
  ~PythonWorkingCopy() override {
    const py::gil_scoped_acquire gil;
    network_.norm_statistics_ = py::none();
  }
  PythonWorkingCopy(const PythonWorkingCopy&) = delete;
  PythonWorkingCopy& operator=(const PythonWorkingCopy&) = delete;

  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return {run(inputs, inject)}; }
  FirstPass prepare(const Inputs& inputs) override { return network_.prepare(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass&, const Inject* inject) override {
    return run(inputs, inject);
  }

 private:
  static std::vector<at::Tensor> parameters_and_buffers(const PythonNetwork& network) {
    std::vector<at::Tensor> all = tensors_of(network.parameters());
    for (auto& buffer : buffers_of(network.model_)) all.push_back(std::move(buffer));
    return all;
  }

  at::Tensor run(const Inputs& inputs, const Inject* inject) {
    const py::gil_scoped_acquire gil;
    at::Tensor prediction = network_.run(inputs, inject);
    take_over_values();
    buffers_.drop_graphs();
    state_.drop_graphs();
    return prediction;
  }

  /// What forward() assigns to a parameter's `data` is its value from then on.
  void take_over_values() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < leaves().size(); ++i) {
      const at::Tensor &leaf = leaves()[i], &value = values()[i];
      if (!leaf.requires_grad() || leaf.is_alias_of(value)) continue;
      value.copy_(leaf.detach());
      leaf.set_data(value);
    }
  }

  PythonNetwork& network_;
  HookScope no_recomputation_;
  SwappedBuffers buffers_;
  SwappedState state_;
};

PythonNetwork::PythonNetwork(
    py::object model,
    py::object layer,
    std::string layer_name,
    py::object inputs,
    OutputChoice output,
    std::optional<OutputPath> layer_output,
    py::object shared_head)
    : model_(std::move(model)),
      layer_(std::move(layer)),
      layer_name_(std::move(layer_name)),
      inputs_(std::move(inputs)),
      tensors_(tensors_in(inputs_)),
      output_(std::move(output)),
      layer_output_(std::move(layer_output)),
      shared_head_(std::move(shared_head)),
      objects_(inputs_) {}

py::object PythonNetwork::recomputation_check() const {
  return py::cpp_function([layer_name = layer_name_, layer = layer_.ptr()](py::handle module, py::handle, py::handle) {
    if (module.ptr() != layer) return;  // of a copy that was made meanwhile, with its hooks
    const bool is_known = RunningScope::is_any();
    TORCH_CHECK_VALUE(
        is_known || torch::autograd::get_current_graph_task_id() != -1, "the layer '", layer_name,
        "' is called by the embedder or distance_fn while the model's weights adapt in place, as the model is not cut "
        "at the layer; give them a copy of the model");
    TORCH_CHECK_VALUE(
        is_known, "the layer '", layer_name,
        "' is called again in the backward pass, as activation checkpointing does, where nothing is injected; switch "
        "checkpointing off while the model adapts, or name a layer outside of the checkpointed blocks");
  });
}

py::object PythonNetwork::call_model(const Inputs& inputs) {
  const RunningScope running;
  const NoFastPath no_fast_path;
  objects_.restore();  // each pass gets what was given
  const bool are_own = std::equal(
      inputs.args.begin(), inputs.args.end(), tensors_.begin(), tensors_.end(),
      [](const c10::IValue& a, const c10::IValue& b) { return a.toTensor().is_same(b.toTensor()); });
  const Arguments arguments = arguments_of(are_own ? inputs_ : with_tensors(inputs_, inputs.args));
  if (norm_statistics_.is_none()) return model_(*arguments.args, **arguments.kwargs);
  return norm_statistics_.attr("call")(model_, arguments.args, arguments.kwargs);
}

at::Tensor PythonNetwork::run(const Inputs& inputs, const Inject* inject) {
  const py::gil_scoped_acquire gil;
  if (inject != nullptr || shares_head_) return run_with_hook(inputs, inject);
  return prediction_in(call_model(inputs), output_);
}

FirstPass PythonNetwork::predict(const Inputs& inputs, const Inject* inject) {
  const py::gil_scoped_acquire gil;
  given_.emplace(model_);
  if (shared_head_.is_none()) return {run(inputs, inject)};
  const py::object tensors = py::cast(tensors_of_pass(inputs));
  shares_head_ = shared_head_.attr("is_worth_it")(tensors).cast<bool>() && !has_compiled_parts(model_);
  if (!shares_head_) return {run(inputs, inject)};
  shares_head_ = shared_head_.attr("first")(tensors, buffers_of(model_), batch_counters_of(model_)).cast<bool>();
  const EndOfPass end(shared_head_);
  return {run(inputs, inject)};
}

FirstPass PythonNetwork::prepare(const Inputs&) { return {}; }

at::Tensor PythonNetwork::run_with_hook(const Inputs& inputs, const Inject* inject) {
  const bool has_gradients = at::GradMode::is_enabled();
  bool was_called = false;
  const auto at_layer = [&](py::handle output) -> py::object {
    was_called = true;
    if (shares_head_) shared_head_.attr("at_layer")();
    if (inject == nullptr) return py::none();
    TORCH_CHECK_VALUE(
        at::GradMode::is_enabled() || !has_gradients, "the layer '", layer_name_,
        "' is run without gradients, as in a torch.no_grad() block or by activation checkpointing with "
        "use_reentrant=True; an injection there could not be differentiated. Name another layer, or run it with "
        "gradients");
    const auto injected = [&](py::handle features) {
      return py::reinterpret_steal<py::object>(THPVariable_Wrap((*inject)(THPVariable_Unpack(features.ptr()))));
    };
    const auto is_tensor = [](py::handle object) { return THPVariable_Check(object.ptr()); };
    return replace_at(output, layer_output_, injected, is_tensor, layer_name_);
  };
  // A copy of the model that another thread makes meanwhile has the hook too, and keeps it. It does nothing there.
  using AtLayer = decltype(at_layer);
  const auto while_it_lives = std::make_shared<const AtLayer*>(&at_layer);
  const py::cpp_function hook(
      [while_it_lives, layer = layer_.ptr()](py::handle module, py::handle, py::handle output) -> py::object {
        const bool is_meant = *while_it_lives != nullptr && module.ptr() == layer;
        return is_meant ? (**while_it_lives)(output) : py::none();
      });
  const auto ends = c10::make_scope_exit([&] { *while_it_lives = nullptr; });
  const HookScope scope(layer_, hook);
  at::Tensor prediction = prediction_in(call_model(inputs), output_);
  TORCH_CHECK_VALUE(
      was_called || inject == nullptr, "the layer '", layer_name_,
      "' was not called by the model's forward, so nothing can be injected there. Fused paths read the weights of some "
      "layers, such as an attention's out_proj, without calling them: name the layer around it");
  return prediction;
}

std::optional<at::Tensor> PythonNetwork::resume_behind_head(const Inputs& inputs, const Inject* inject) {
  shares_head_ = shared_head_.attr("may_share")(buffers_of(model_)).cast<bool>();
  if (!shares_head_) return std::nullopt;
  const SwappedBuffers buffers({model_});
  const SwappedState state(model_);
  if (given_) given_->restore();
  shared_head_.attr("second")(tensors_of_pass(inputs), buffers_of(model_));
  const auto ends = c10::make_scope_exit([&] { shares_head_ = false; });
  std::optional<at::Tensor> prediction;
  try {
    const EndOfPass end(shared_head_);
    prediction = run(inputs, inject);
    shared_head_.attr("look_at_writes")();
  } catch (const py::error_already_set&) {
    if (!shared_head_.attr("is_other").cast<bool>()) throw;
  }
  if (shared_head_.attr("is_other").cast<bool>()) prediction.reset();  // whoever caught it
  return prediction;
}

at::Tensor PythonNetwork::resume(const Inputs& inputs, const FirstPass&, const Inject* inject) {
  const py::gil_scoped_acquire gil;
  if (shares_head_) {
    if (auto prediction = resume_behind_head(inputs, inject)) return *std::move(prediction);
  }
  const SwappedBuffers buffers({model_});  // running statistics, and other state, are the first pass's to update
  const SwappedState state(model_);
  if (given_) given_->restore();
  return run(inputs, inject);
}

ModelLock::Turn PythonNetwork::take_turn() const {
  std::vector<at::Tensor> tensors;
  {
    const auto no_fakes = lock_on_exports().wait(UpgradeMutex::Use::reading);
    const py::gil_scoped_acquire gil;
    tensors = tensors_of(parameters_of(model_));
    for (auto& buffer : buffers_of(model_)) tensors.push_back(std::move(buffer));
  }
  return ModelLock(tensors).wait(UpgradeMutex::Use::alone);
}

std::vector<NamedParameter> PythonNetwork::parameters() const {
  const py::gil_scoped_acquire gil;
  return parameters_of(model_);
}

std::unique_ptr<WorkingCopy> PythonNetwork::checkout(
    const std::vector<NamedParameter>& adapted, const Normalization& normalization) {
  const py::gil_scoped_acquire gil;
  return std::make_unique<PythonWorkingCopy>(*this, adapted, normalization);
}

}  // namespace it3::python
