#include "capture.h"

#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/python_variable.h>

#include <it3/backend/selection.h>
#include <it3/backend/traced_evaluation.h>

#include "options_from_python.h"

namespace it3::python {
namespace {

py::object python_tensor(const at::Tensor& tensor) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

/// A tensor or a size, as Python knows it.
py::object python_value(const c10::IValue& value) {
  if (value.isTensor()) return python_tensor(value.toTensor());
  if (value.isSymInt()) return py::cast(value.toSymInt());
  return py::cast(value.toInt());
}

c10::IValue value_from(py::handle object) {
  if (THPVariable_Check(object.ptr())) return THPVariable_Unpack(object.ptr());
  return object.cast<c10::SymInt>();
}

/// Functions of Python's.
PassFunctions functions_of(const py::object& network) {
  const auto head = [&network](const std::vector<at::Tensor>& weights, const Inputs& inputs) {
    const py::gil_scoped_acquire gil;
    py::list tensors;
    for (const auto& input : inputs.args) tensors.append(python_tensor(input.toTensor()));
    std::vector<c10::IValue> carried;
    for (const py::handle value : network.attr("head")(weights, tensors)) carried.push_back(value_from(value));
    return carried;
  };
  const auto tail = [&network](const std::vector<c10::IValue>& carried, const Inject* inject) {
    const py::gil_scoped_acquire gil;
    py::list values;
    for (const auto& value : carried) values.append(python_value(value));
    py::object injected = py::none();
    if (inject != nullptr) {
      injected = py::cpp_function([inject](py::handle features) {
        const at::Tensor given = THPVariable_Unpack(features.ptr());
        at::Tensor combined;
        {
          const py::gil_scoped_release no_gil;
          combined = (*inject)(given);
        }
        return python_tensor(combined);
      });
    }
    return at::Tensor(THPVariable_Unpack(network.attr("tail")(values, injected).ptr()));
  };
  return {head, tail};
}

template <typename T>
std::string as_text(const T& value) {
  if constexpr (std::is_same_v<T, std::monostate>) {
    return "None";
  } else {
    return c10::str(value);
  }
}

Inputs as_inputs(const std::vector<at::Tensor>& tensors) {
  return Inputs(std::vector<c10::IValue>(tensors.begin(), tensors.end()));
}

}  // namespace

Capture::Resolved Capture::resolve(const PythonSetup& setup, const py::object& inputs, const Options& options) {
  const Layout* const each_by = options.per_sample ? &setup.core.layouts.prediction : nullptr;
  auto [call, program] = setup.runners->resolve_with_program(inputs, setup.attributes.in_dims, each_by);
  return {std::move(call), std::move(program)};
}

Capture::Capture(const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options)
    : Capture(setup, options_from(options), resolve(*setup, inputs, options_from(options))) {}

Capture::Capture(PythonEngine::Setup setup, Options options, Resolved resolved)
    : setup_(std::move(setup)),
      options_(std::move(options)),
      program_(std::move(resolved.program)),
      network_(std::move(resolved.call.network)),
      network_id_(network_->id()),
      method_(setup_->core.method(resolved.call.in_dims)),
      adapted_(select_parameters(network_->parameters(), options_.parameters)) {
  TORCH_CHECK_VALUE(
      options_.anchor != AnchorKind::frozen_tail,
      "an engine with anchor='frozen_tail' cannot be compiled; use anchor='frozen'");
  TORCH_CHECK_VALUE(
      std::holds_alternative<at::Tensor>(method_.neutral),
      "an engine with a neutral signal that is drawn for each call cannot be compiled; give a number or a tensor");
  const Inputs of_programs = inputs_of_programs(resolved.call.inputs, method_, options_, adapted_);
  for (const auto& input : of_programs.args) inputs_.push_back(input.toTensor());
}

std::vector<at::Tensor> Capture::reads() const {
  std::vector<at::Tensor> all = method_.reads.value_or(std::vector<at::Tensor>{});
  if (const auto value = neutral()) all.push_back(*value);
  return all;
}

std::optional<at::Tensor> Capture::neutral() const {
  return is_given(method_.neutral) ? std::optional(std::get<at::Tensor>(method_.neutral)) : std::nullopt;
}

std::string Capture::description() const {
  std::string text;
  for (const Layout& layout : {setup_->core.layouts.prediction, setup_->core.layouts.features}) {
    text += c10::str(layout.batch_dim, ' ', layout.channel_dim.value_or(-100), "; ");
  }
  text += c10::str(method_.distance.name, ' ', method_.feeds_probabilities, ' ', neutral().has_value());
  for (const auto& [name, value] : compiled_options(options_).values()) {
    std::visit([&](const auto& v) { text += "; " + name + " " + as_text(v); }, value);
  }
  for (const NamedParameter& parameter : adapted_) text += "; " + parameter.name;
  return text;
}

template <typename Work>
std::vector<std::optional<at::Tensor>> Capture::trace(
    const py::object& network,
    const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& anchor,
    const std::vector<at::Tensor>& inputs,
    const Work& work) {
  TORCH_CHECK(network_ != nullptr, "this capture is closed");
  const PassFunctions functions = functions_of(network);
  const Inputs given = as_inputs(inputs);
  const AdaptCall call{.network = *network_, .method = method_, .options = options_, .inputs = given};
  const py::gil_scoped_release no_gil;
  std::vector<std::optional<at::Tensor>> results;
  for (at::Tensor& result : work(TracedEvaluation{call, functions, weights, anchor})) {
    results.push_back(result.defined() ? std::optional(std::move(result)) : std::nullopt);
  }
  return results;
}

std::vector<std::optional<at::Tensor>> Capture::step(
    const py::object& network,
    const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& anchor,
    const std::vector<at::Tensor>& inputs,
    const std::optional<at::Tensor>& rows) {
  return trace(network, weights, anchor, inputs, [&](const TracedEvaluation& traced) {
    return traced.step(rows.value_or(at::Tensor()));
  });
}

std::vector<std::optional<at::Tensor>> Capture::answer(
    const py::object& network,
    const std::vector<at::Tensor>& weights,
    const std::vector<at::Tensor>& inputs,
    bool with_second) {
  return trace(
      network, weights, {}, inputs, [&](const TracedEvaluation& traced) { return traced.answer(with_second); });
}

Compiled::For Capture::what(std::vector<at::Tensor> constants, const std::shared_ptr<Watch>& watch) const {
  Compiled::For what{network_id_,    compiled_options(options_), adapted_, std::move(constants), method_.reads,
                     method_.in_dims};
  what.have_functions_changed = asking(watch);
  what.check();
  return what;
}

}  // namespace it3::python
