#include "runners.h"

#include <utility>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <it3/backend/exported_graph.h>

#include "eager_cut.h"
#include "in_dims_from_python.h"
#include "module_tree.h"
#include "output_choice.h"
#include "python_network.h"
#include "python_parts.h"
#include "python_values.h"
#include "script_from_python.h"
#include "shared_model_lock.h"

namespace it3::python {
namespace {

/// A TorchScript module, cut at the layer.
class ScriptRunner : public Runner {
 public:
  explicit ScriptRunner(std::shared_ptr<ScriptNetwork> network) : network_(std::move(network)) {}

  std::variant<NetworkCall, std::string> resolve(
      const py::object& inputs, const py::object& in_dims, const Layout* /*each_by*/) override {
    return NetworkCall{network_, script_inputs_from(*network_, inputs), in_dims_of_script(*network_, inputs, in_dims)};
  }

 private:
  std::shared_ptr<ScriptNetwork> network_;
};

/// An eager module, run whole.
class HookedRunner : public Runner {
 public:
  HookedRunner(py::object model, std::string layer, py::object output, py::object layer_output)
      : model_(std::move(model)),
        layer_(std::move(layer)),
        output_(std::move(output)),
        layer_output_(std::move(layer_output)) {}

  std::variant<NetworkCall, std::string> resolve(
      const py::object& inputs, const py::object& in_dims, const Layout* /*each_by*/) override {
    return call(inputs, in_dims, py::none());
  }

  NetworkCall resolve_for_training(const py::object& inputs, const py::object& in_dims) override {
    return call(inputs, in_dims, shared_head_.attr("step")());
  }

  std::string why_not_shared() const override { return shared_head_.attr("objection").cast<std::string>(); }

 private:
  NetworkCall call(const py::object& inputs, const py::object& in_dims, py::object shared_head) {
    const py::object layer = submodule_of(model_, layer_);
    auto hold = std::make_shared<SharedModelLock::Hold>(SharedModelLock::of(model_), SharedModelLock::Use::alone);
    auto network = std::make_shared<PythonNetwork>(
        model_, layer, layer_, inputs, output_choice(output_, "output", true),
        output_choice(layer_output_, "layer_output", false).path, std::move(shared_head));
    return {
        with_hold(std::move(network), std::move(hold)), Inputs(tensors_in(inputs)),
        in_dims_of_tensors(inputs, in_dims)};
  }

  py::object model_;
  std::string layer_;
  py::object output_;
  py::object layer_output_;
  py::object shared_head_ = python_parts().shared_head();
};

/// Where a program of torch.export calls a layer by several modules, a hook on one would miss the other calls.
void check_is_one_module(const py::object& model, const std::string& layer) {
  if (layer.empty() || !py::isinstance(model, python_parts().exported_model_class)) return;
  std::vector<ExportedPart> parts;
  for_each_module(model, [&](const std::string& path, py::handle module) {
    if (path.empty()) return;
    const py::object class_name = module.attr("type_name")();
    ExportedPart part{path, class_name.is_none() ? "" : class_name.cast<std::string>(), {}};
    for (const char* const tensors : {"parameters", "buffers"}) {
      for (const py::handle tensor : module.attr(tensors)()) {
        part.memory.insert(tensor.cast<at::Tensor>().const_data_ptr());
      }
    }
    parts.push_back(std::move(part));
  });
  check_is_one(layer, parts);
}

}  // namespace

Runners::Runners(
    const py::object& model, const std::string& layer, const py::object& output, const py::object& layer_output)
    : model_(model) {
  if (torch::jit::as_module(model)) {
    script_network_ = script_network_from(model, layer, output, layer_output);
    runners_.push_back(std::make_unique<ScriptRunner>(script_network_));
  } else {
    check_is_one_module(model, layer);
    runners_.push_back(std::make_unique<EagerCut>(model, layer, output, layer_output));
    runners_.push_back(std::make_unique<HookedRunner>(model, layer, output, layer_output));
  }
}

NetworkCall Runners::resolve(const py::object& inputs, const py::object& in_dims, const Layout* each_by) const {
  for (const auto& runner : runners_) {
    auto call = runner->resolve(inputs, in_dims, each_by);
    if (auto* const found = std::get_if<NetworkCall>(&call)) return std::move(*found);
  }
  TORCH_INTERNAL_ASSERT(false, "no runner takes the model");
}

NetworkCall Runners::resolve_for_training(const py::object& inputs, const py::object& in_dims) const {
  return runners_.back()->resolve_for_training(inputs, in_dims);
}

NetworkCall Runners::resolve_whole(const py::object& inputs, const py::object& in_dims) const {
  return std::get<NetworkCall>(runners_.back()->resolve(inputs, in_dims, nullptr));
}

std::pair<NetworkCall, py::object> Runners::resolve_with_program(
    const py::object& inputs, const py::object& in_dims, const Layout* each_by) const {
  auto call = runners_.front()->resolve_with_program(inputs, in_dims, each_by);
  const auto* const reason = std::get_if<std::string>(&call);
  TORCH_CHECK_VALUE(
      reason == nullptr,
      "this model cannot be compiled, as only eager models that torch.export takes, and its programs, can: ", *reason);
  return std::get<std::pair<NetworkCall, py::object>>(std::move(call));
}

std::string Runners::why_not(const py::object& inputs, const py::object& in_dims, const Layout* each_by) const {
  const auto call = runners_.front()->resolve(inputs, in_dims, each_by);
  const auto* const reason = std::get_if<std::string>(&call);
  return reason != nullptr ? *reason : "";
}

}  // namespace it3::python
