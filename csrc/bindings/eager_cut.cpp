#include "eager_cut.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/python_variable.h>

#include "as_real.h"
#include "module_tree.h"
#include "python_network.h"
#include "python_values.h"
#include "random_state_guard.h"
#include "script_from_python.h"

namespace it3::python {
namespace {

using it3::detail::as_real;

constexpr int most_changes = 10;
constexpr std::size_t most_attempts = 10;

/// A cut module under the names of the eager one.
class TracedNetwork : public Network {
 public:
  TracedNetwork(std::shared_ptr<ScriptNetwork> script, std::vector<NamedParameter> parameters)
      : script_(std::move(script)), parameters_(std::move(parameters)) {}

  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return script_->predict(inputs, inject); }
  FirstPass prepare(const Inputs& inputs) override { return script_->prepare(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return script_->resume(inputs, first, inject);
  }
  std::vector<NamedParameter> parameters() const override { return parameters_; }
  std::optional<Dependencies> dependencies(const Normalisation& normalisation) const override {
    return script_->dependencies(normalisation);
  }
  std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalisation& normalisation) override {
    return script_->checkout(adapted, normalisation);
  }
  std::unique_ptr<WorkingCopy> checkout_each(
      const std::vector<NamedParameter>& adapted, const Normalisation& normalisation, std::int64_t samples) override {
    return script_->checkout_each(adapted, normalisation, samples);
  }

 private:
  std::shared_ptr<ScriptNetwork> script_;
  std::vector<NamedParameter> parameters_;
};

/// Collects the tensors in inputs, in the order of torch's pytree, and tells everything else by a text. False if there
/// is something of another kind.
bool flatten(py::handle object, std::vector<c10::IValue>& tensors, std::string& others) {
  if (THPVariable_Check(object.ptr())) {
    tensors.emplace_back(THPVariable_Unpack(object.ptr()));
    others += 'T';
    return true;
  }
  const bool is_tuple = PyTuple_CheckExact(object.ptr());
  if (is_tuple || PyList_CheckExact(object.ptr())) {
    others += is_tuple ? '(' : '[';
    for (const py::handle item : object) {
      if (!flatten(item, tensors, others)) return false;
      others += ',';
    }
    others += ')';
    return true;
  }
  if (PyDict_CheckExact(object.ptr())) {
    others += '{';
    for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(object)) {
      others += py::repr(key).cast<std::string>() + ':';
      if (!flatten(value, tensors, others)) return false;
      others += ',';
    }
    others += '}';
    return true;
  }
  const bool is_constant = object.is_none() || PyBool_Check(object.ptr()) || PyLong_CheckExact(object.ptr()) ||
                           PyFloat_CheckExact(object.ptr()) || PyUnicode_CheckExact(object.ptr());
  if (is_constant) others += py::repr(object).cast<std::string>();
  return is_constant;
}

/// All that a comparison looks at.
struct Outcome {
  std::vector<at::Tensor> predictions;
  std::vector<at::Tensor> gradients;
};

/// Both predictions, the first one without gradients, and the gradients of all by all parameters.
Outcome outcome_of(TwoPass& network, const Inputs& inputs, const std::vector<at::Tensor>& parameters) {
  const Inject inject([](const at::Tensor& features) { return features * 1.5; });
  const FirstPass first = network.prepare(inputs);
  Outcome outcome;
  outcome.predictions.push_back(network.resume(inputs, first, nullptr));
  outcome.predictions.push_back(network.resume(inputs, first, &inject));
  at::Tensor sum;
  for (const at::Tensor& prediction : outcome.predictions) {
    const at::Tensor flat = as_real(prediction).flatten();
    const at::Tensor part = (flat * at::arange(flat.numel(), flat.options().requires_grad(false)).cos()).sum();
    sum = sum.defined() ? sum + part : part;
  }
  if (sum.requires_grad() && !parameters.empty()) {
    outcome.gradients = torch::autograd::grad({sum}, parameters, {}, std::nullopt, false, /*allow_unused=*/true);
  }
  const at::NoGradGuard no_grad;
  outcome.predictions.push_back(network.resume(inputs, network.prepare(inputs), nullptr));
  return outcome;
}

/// Far from rounding, and far from what dropped gradients or another precision make.
double tolerance_for(const at::Tensor& t) {
  const bool may_be_tf32 = t.is_cuda() && t.scalar_type() == at::kFloat;
  switch (c10::toRealValueType(t.scalar_type())) {
    case at::kDouble: return 1e-8;
    case at::kFloat: return may_be_tf32 ? 1e-2 : 1e-4;
    default: return 3e-2;
  }
}

double norm_of(const at::Tensor& t) { return t.to(at::kDouble).norm().item<double>(); }

/// By Euclidean norms, of each tensor; what is small beside all others, as gradients that are zero but for rounding,
/// may differ more.
bool are_close(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& expected) {
  if (actual.size() != expected.size()) return false;
  double all = 0;
  for (const at::Tensor& t : expected) all = t.defined() ? std::hypot(all, norm_of(as_real(t))) : all;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const at::Tensor &a = actual[i], &b = expected[i];
    if (a.defined() != b.defined()) return false;
    if (!a.defined()) continue;
    if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
    const double difference = norm_of(as_real(a) - as_real(b));
    if (!(difference <= tolerance_for(a) * std::max(norm_of(as_real(b)), 0.01 * all))) return false;
  }
  return true;
}

std::string first_line(std::string_view text) {
  const auto begin = text.find_first_not_of('\n');
  return begin == std::string_view::npos ? "" : std::string(text.substr(begin, text.find('\n', begin) - begin));
}

}  // namespace

EagerCut::EagerCut(py::object model, std::string layer) : model_(std::move(model)), layer_(std::move(layer)) {}

std::optional<NetworkCall> EagerCut::call(const py::object& inputs) {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) {  // by a thread that needs the GIL to come to its end
    const py::gil_scoped_release no_gil;
    lock.lock();
  }
  const Arguments arguments = arguments_of(inputs);
  std::vector<c10::IValue> tensors;
  std::string others;
  const bool is_flat = flatten(arguments.args, tensors, others) && flatten(arguments.kwargs, tensors, others);
  keep_up();
  why_ = snapshot_->obstacle();
  if (!is_flat) why_ = "the inputs hold other things than tensors, numbers and strings";
  if (changes_ > most_changes) why_ = "its attributes change again and again";
  if (!why_.empty()) return std::nullopt;
  auto found = attempts_.find(others);
  if (found == attempts_.end()) {
    if (attempts_.size() == most_attempts) {
      why_ = "what is given beside tensors changes again and again";
      return std::nullopt;
    }
    auto made = attempt(inputs, without_inference_tensors(Inputs(tensors)));
    if (!made) {
      why_ = "the model raises an exception";
      return std::nullopt;
    }
    found = attempts_.emplace(others, std::move(*made)).first;
  }
  why_ = found->second.why;
  if (found->second.network == nullptr) return std::nullopt;
  return NetworkCall{found->second.network, Inputs(std::move(tensors))};
}

void EagerCut::keep_up() {
  using enum ModuleSnapshot::Change;
  const auto change = snapshot_ ? snapshot_->change() : structure;
  if (change == none) return;
  snapshot_ = std::make_unique<ModuleSnapshot>(model_);
  changes_ = change == structure ? 0 : changes_ + 1;
  // What cannot be traced stays so whatever the attributes: many models assign some at each call.
  std::erase_if(attempts_, [&](const auto& a) { return change == structure || a.second.network != nullptr; });
}

std::optional<EagerCut::Attempt> EagerCut::attempt(const py::object& inputs, const Inputs& tensors) const {
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  const std::vector<NamedParameter> parameters = parameters_of(model_);
  std::vector<at::Tensor> trainable;
  for (const auto& p : parameters) {
    if (p.tensor.requires_grad()) trainable.push_back(p.tensor);
  }
  const it3::detail::RandomStateGuard random_state(tensors_of(parameters), /*always=*/true);
  const py::object layer = submodule_of(model_, layer_);
  std::shared_ptr<ScriptNetwork> cut;
  try {
    const py::module_ tracing = py::module_::import("it3.tracing");
    const Arguments arguments = arguments_of(inputs);
    const py::object script = tracing.attr("trace")(model_, layer, arguments.args, arguments.kwargs);
    cut = script_network_from(script, tracing.attr("FEATURES").cast<std::string>());
  } catch (py::error_already_set& error) {
    return Attempt{nullptr, "it cannot be traced: " + first_line(py::str(error.value()).cast<std::string>())};
  } catch (const c10::Error& error) {
    return Attempt{nullptr, "traced, it cannot be cut: " + first_line(error.what_without_backtrace())};
  }
  if (!cut->has_repeatable_head()) return Attempt{nullptr, "what comes before the layer depends on chance"};

  PythonNetwork hooked(model_, layer, layer_, inputs);
  const py::gil_scoped_release no_gil;
  Outcome expected;
  try {
    // Both draw from one random state, another than while tracing, which may have fixed what was drawn.
    const it3::detail::RandomStateGuard start(tensors_of(parameters), /*always=*/true);
    expected = outcome_of(hooked, tensors, trainable);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  try {
    const Outcome actual = outcome_of(*cut, tensors, trainable);
    if (!are_close(actual.predictions, expected.predictions)) return Attempt{nullptr, "traced, it predicts otherwise"};
    if (!are_close(actual.gradients, expected.gradients)) return Attempt{nullptr, "traced, it has other gradients"};
  } catch (const std::exception& error) {
    return Attempt{nullptr, "traced, it raises: " + first_line(error.what())};
  }
  return Attempt{std::make_shared<TracedNetwork>(std::move(cut), parameters), ""};
}

}  // namespace it3::python
