#include "eager_cut.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <it3/backend/interrupts.h>
#include <it3/backend/network_outputs.h>
#include <it3/exported_network.h>

#include "call_kind.h"
#include "every_parameter.h"
#include "exported_from_python.h"
#include "function_mode.h"
#include "in_dims_from_python.h"
#include "module_tree.h"
#include "no_fast_path.h"
#include "python_network.h"
#include "python_parts.h"
#include "python_values.h"
#include "quiet_export.h"
#include "support/error_text.h"
#include "support/full_float32.h"
#include "support/no_saved_tensor_hooks.h"
#include "support/random_state_guard.h"
#include "support/write_count.h"
#include "swapped_state.h"
#include "uninterrupted.h"

namespace it3::python {
namespace {

constexpr const char* exported_layer = "it3_features";  // in the program, whatever it is called in the model
constexpr int most_changes = 10;
constexpr std::size_t most_attempts = 10;
constexpr int most_undecided = 10;

/// The first sample by itself, as a pass of Options::per_sample sees it; all inputs where they cannot be taken apart.
Inputs first_sample(const Inputs& inputs, const std::optional<InDims>& dims, const Layout& prediction_layout) {
  try {
    const Samples samples(inputs, dims, prediction_layout);
    return samples.count() > 0 ? samples.slice(0, 1) : inputs;
  } catch (const c10::Error&) {  // which the call itself raises
    return inputs;
  }
}

/// Whether something was written to any of some tensors while it lives, which it undoes.
class WriteGuard {
 public:
  explicit WriteGuard(const std::vector<NamedParameter>& parameters) : tensors_(tensors_of(parameters)) {
    for (const at::Tensor& t : tensors_) {
      versions_.push_back(it3::detail::version_of(t));
      values_.push_back(t.detach().clone());
    }
  }

  bool undo() {
    const at::NoGradGuard no_grad;
    bool was_written = false;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (it3::detail::version_of(tensors_[i]) == versions_[i]) continue;
      tensors_[i].detach().copy_(values_[i]);
      versions_[i] = it3::detail::version_of(tensors_[i]);
      was_written = true;
    }
    return was_written;
  }

 private:
  std::vector<at::Tensor> tensors_;
  std::vector<std::int64_t> versions_;
  std::vector<at::Tensor> values_;
};

/// The name of the value that a program's mark stands behind; of the whole model, the output.
std::string layer_output_of(const ExportedGraph& graph) {
  for (const ExportedOperation& operation : graph.operations) {
    if (operation.target != features_target) continue;
    return std::get<ExportedArgument::Value>(operation.arguments.at(0).second.is).name;
  }
  return graph.output;
}

/// Calls a function, and puts back what an it3.cutting.keeping.Keeper keeps, whatever happens. A Ctrl-C can end that
/// too: then it is done once more.
template <typename Function>
auto keeping(const py::object& keeper, const Function& function) {
  try {
    auto result = function();
    keeper.attr("put_back")();
    return result;
  } catch (...) {
    const py::error_scope pending;
    try {
      keeper.attr("put_back")();
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("putting back what a model's forward() changed");
    }
    throw;
  }
}

}  // namespace

ModelLock lock_on_exports() {
  static const char torch_export = 0;
  return ModelLock({}, {&torch_export});
}

ModelLock::Turn turn_to_trace() {
  const py::gil_scoped_release no_gil;  // other threads need it to come to their ends
  return lock_on_exports().wait(UpgradeMutex::Use::alone);
}

std::shared_ptr<Network> with_hold(std::shared_ptr<Network> network, std::shared_ptr<SharedModelLock::Hold> hold) {
  Network* const inner = network.get();
  return {std::make_shared<std::pair<decltype(hold), decltype(network)>>(std::move(hold), std::move(network)), inner};
}

EagerCut::EagerCut(py::object model, std::string layer, py::object output, py::object layer_output)
    : lock_(SharedModelLock::of(model)),
      model_(std::move(model)),
      layer_(std::move(layer)),
      output_(std::move(output)),
      layer_output_(std::move(layer_output)) {}

std::variant<NetworkCall, std::string> EagerCut::resolve(
    const py::object& inputs, const py::object& in_dims, const Layout* each_by) {
  return resolve(inputs, in_dims, each_by, nullptr);
}

std::variant<std::pair<NetworkCall, py::object>, std::string> EagerCut::resolve_with_program(
    const py::object& inputs, const py::object& in_dims, const Layout* each_by) {
  py::object program;  // by a call, as what that raises says nothing of the cut
  auto call = resolve(inputs, in_dims, each_by, &program);
  if (const auto* const reason = std::get_if<std::string>(&call)) return *reason;
  return std::pair(std::get<NetworkCall>(std::move(call)), program());
}

std::variant<NetworkCall, std::string> EagerCut::resolve(
    const py::object& inputs, const py::object& in_dims, const Layout* each_by, py::object* program) {
  const Arguments arguments = arguments_of(inputs);
  std::vector<c10::IValue> tensors;
  std::string others;
  const bool is_flat = flatten(arguments.args, tensors, others) && flatten(arguments.kwargs, tensors, others);
  if (!is_flat) return "the inputs hold objects other than tensors, numbers and strings";
  if (has_same_twice(tensors)) return "the same tensor is given twice";
  const Inputs of_call(tensors);
  const std::optional<InDims> dims = in_dims_of_tensors(inputs, in_dims);
  const Inputs of_pass = each_by != nullptr ? first_sample(of_call, dims, *each_by) : of_call;
  const auto guard = [this] {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {  // by a thread that needs the GIL to come to its end
      const py::gil_scoped_release no_gil;
      lock.lock();
    }
    return lock;
  };
  while (true) {
    {
      auto hold = std::make_shared<SharedModelLock::Hold>(lock_, SharedModelLock::Use::reading);
      const auto lock = guard();
      keep_up();
      if (std::string why = obstacle(); !why.empty()) return why;
      if (const Attempt* const known = known_attempt(others, of_pass)) {
        if (known->network == nullptr) return known->why;
        if (program == nullptr || *program) {
          return NetworkCall{with_hold(known->network, std::move(hold)), of_call, dims};
        }
      }
      if (attempts_.size() == most_attempts) {
        return "the inputs' sizes, or what of them is no tensor, differ in almost every call";
      }
    }
    const SharedModelLock::Hold alone(lock_, SharedModelLock::Use::alone);  // as the model is run
    const auto lock = guard();
    const Attempt* const known = known_attempt(others, of_pass);
    const bool lacks_program = program != nullptr && !*program;
    if (known != nullptr && (!lacks_program || known->network == nullptr)) continue;
    // The usual call differs from the first in the number of samples only.
    const bool any_sizes = known != nullptr ? known->any_sizes : attempts_.contains(others);
    auto made = attempt(inputs, without_inference_tensors(of_pass), any_sizes, program);
    made.any_sizes = any_sizes;
    if (known != nullptr) {
      if (made.network == nullptr) return made.why;
      continue;  // its network is the same as the known one
    }
    if (made.network != nullptr && !made.network->takes(of_pass)) {
      made = {nullptr, "the exported program is not for the sizes that it was exported with", nullptr};
    }
    if (made.verdict == Attempt::Verdict::failed) return made.why;
    if (made.verdict == Attempt::Verdict::undecided && ++undecided_ <= most_undecided) return made.why;
    attempts_.emplace(others, std::move(made));
  }
}

const EagerCut::Attempt* EagerCut::known_attempt(const std::string& others, const Inputs& tensors) const {
  const auto [begin, end] = attempts_.equal_range(others);
  const auto found = std::find_if(begin, end, [&](const auto& attempt) {
    return attempt.second.network == nullptr || attempt.second.network->takes(tensors);
  });
  return found != end ? &found->second : nullptr;
}

std::string EagerCut::obstacle() const {
  return changes_ > most_changes ? "the model's attributes change in almost every call" : snapshot_->obstacle();
}

void EagerCut::keep_up() {
  using enum ModuleSnapshot::Change;
  auto change = snapshot_ ? snapshot_->change() : structure;
  if (change == none) {
    const bool has_changed = std::any_of(attempts_.begin(), attempts_.end(), [](const auto& a) {
      return a.second.watch && a.second.watch->has_changed();
    });
    if (!has_changed) return;
    change = attributes;
  }
  snapshot_ = std::make_unique<ModuleSnapshot>(model_);
  changes_ = change == structure ? 0 : changes_ + 1;
  // What cannot be traced stays so whatever the attributes: many models assign some at each call.
  std::erase_if(attempts_, [&](const auto& a) { return change == structure || a.second.network != nullptr; });
}

EagerCut::Attempt EagerCut::failed_by(const std::exception& error, std::string_view whose) {
  it3::detail::rethrow_interrupt(error);
  if (const auto* const refusal = dynamic_cast<const CutRefusal*>(&error)) return {nullptr, refusal->why(), nullptr};
  const auto* const of_torch = dynamic_cast<const python_error*>(&error);
  const bool is_lost = of_torch != nullptr && of_torch->value == nullptr;
  // There may be more memory at the next call; and of an error whose text is lost nothing is known.
  const auto verdict =
      is_lost || it3::detail::is_out_of_memory(error) ? Attempt::Verdict::failed : Attempt::Verdict::final;
  return {nullptr, std::string(whose).append(": ").append(it3::error_text(error)), nullptr, verdict};
}

EagerCut::Attempt EagerCut::attempt(
    const py::object& inputs, const Inputs& tensors, bool any_sizes, py::object* program) const {
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  const it3::detail::NoSavedTensorHooks no_hooks;
  const py::object layer = submodule_of(model_, layer_);
  PythonNetwork hooked(
      model_, layer, layer_, inputs, output_choice(output_, "output", true),
      output_choice(layer_output_, "layer_output", false).path);

  const auto turn = [&] {
    const py::gil_scoped_release no_gil;
    return hooked.take_turn();
  }();

  const std::vector<NamedParameter> parameters = parameters_of(model_);
  std::vector<at::Tensor> held = every_parameter(model_);
  for (at::Tensor& buffer : buffers_of(model_)) held.push_back(std::move(buffer));
  if (!std::all_of(held.begin(), held.end(), [](const at::Tensor& t) { return t.is_leaf(); })) {  // functional_call()
    return {nullptr, "parameters are computed from other tensors", nullptr, Attempt::Verdict::failed};
  }
  const it3::detail::RandomStateGuard random_state(tensors_of(parameters), /*always=*/true);
  const py::object plan = python_parts().tracing_plan(model_, layer, output_, layer_output_);
  const py::object keeper = plan.attr("keeper");
  return keeping(keeper, [&]() -> Attempt {
    const auto why_not = [&] { return plan.attr("why_not")().cast<std::string>(); };
    if (std::string why = why_not(); !why.empty()) return Attempt{nullptr, std::move(why), nullptr};
    const auto own_arguments = [&] { return arguments_of(with_tensors(inputs, copies_of(tensors).args)); };
    try {
      const EvalScope eval(model_);
      const SwappedBuffers buffers({model_});
      SwappedState state(model_);
      for (const at::Tensor& tensor : held) state.swap_out(tensor);
      const Arguments arguments = own_arguments();
      const FunctionMode mode(plan.attr("value_reads")(arguments.args, arguments.kwargs));
      plan.attr("record")(arguments.args, arguments.kwargs);
    } catch (const std::exception& error) {
      it3::detail::rethrow_interrupt(error);
      return Attempt{nullptr, "the model raises an exception", nullptr, Attempt::Verdict::failed};
    }
    if (std::string why = why_not(); !why.empty()) return Attempt{nullptr, std::move(why), nullptr};

    std::shared_ptr<ScriptNetwork> cut;
    try {
      const EvalScope eval(model_);
      SwappedState state(model_);
      for (const at::Tensor& tensor : held) state.swap_out(tensor);  // what is not recorded runs while tracing
      const Arguments arguments = own_arguments();
      const auto alone = turn_to_trace();
      const NoFastPath no_fast_path;
      const it3::detail::RandomStateGuard while_tracing(tensors_of(parameters), /*always=*/true);
      const py::object graph = [&] {
        const Uninterrupted uninterrupted;
        const QuietExport quiet(plan.attr("others_stream"));
        return plan.attr("trace")(arguments.args, arguments.kwargs, any_sizes);
      }();
      if (while_tracing.has_changed()) {
        return Attempt{
            nullptr, "forward() draws random numbers that a trace would fix", nullptr, Attempt::Verdict::undecided};
      }
      const ExportedGraph described = exported_graph_from(graph);
      if (program != nullptr) {
        *program = py::module_::import("functools").attr("partial")(graph.attr("marked"), layer_output_of(described));
      }
      cut = std::make_shared<ExportedNetwork>(described, layer_.empty() ? "" : exported_layer);
    } catch (const py::error_already_set& error) {
      return failed_by(error, "torch.export cannot take it");
    } catch (const std::exception& error) {
      return failed_by(error, "the traced model cannot be cut at the layer");
    }
    if (std::string why = cut->why_head_may_differ(); !why.empty()) return Attempt{nullptr, std::move(why), nullptr};
    const auto watch = plan.attr("watch")();
    if (std::string why = why_not(); !why.empty()) return Attempt{nullptr, std::move(why), nullptr};
    return compared(std::move(cut), hooked, tensors, watch.cast<std::shared_ptr<Watch>>(), keeper);
  });
}

EagerCut::Attempt EagerCut::compared(
    std::shared_ptr<ScriptNetwork> cut,
    Network& hooked,
    const Inputs& tensors,
    std::shared_ptr<const Watch> watch,
    const py::object& keeper) const {
  const std::vector<NamedParameter> parameters = parameters_of(model_);
  std::vector<NamedParameter> trainable;
  for (const auto& p : parameters) {
    if (p.tensor.requires_grad()) trainable.push_back(p);
  }
  const auto failed = [](std::string why) { return Attempt{nullptr, std::move(why), nullptr}; };
  keeper.attr("put_back")();
  const bool has_changed_before = watch->has_changed();
  const py::gil_scoped_release no_gil;
  const it3::detail::FullFloat32 full_precision;
  // All draw from one random state, another than while tracing, which may have fixed what was drawn.
  const auto outputs_from_start = [&](Network& network, const Inputs& of_network, double varied_by) {
    const it3::detail::RandomStateGuard start(tensors_of(parameters), /*always=*/true);
    try {
      return outputs_of(network, of_network, trainable, varied_by);
    } catch (python_error& error) {
      error.persist();  // torch leaves it pending, without text, and the next of Python's functions would lose it
      throw;
    }
  };
  NetworkOutputs expected;
  try {
    expected = outputs_from_start(hooked, tensors, 0);
  } catch (const std::exception& error) {
    return failed_by(error, "the model raises");
  }
  {
    const py::gil_scoped_acquire gil;
    if (has_changed_before || watch->has_changed()) return failed("forward() changes Python variables that it reads");
  }
  if (!expected.predictions[0].isfinite().all().item<bool>()) {
    return {
        nullptr, "the predictions for these inputs are not finite, so a cut model cannot be compared with the model",
        nullptr, Attempt::Verdict::undecided};
  }
  if (at::equal(expected.predictions[0], expected.predictions[1])) {
    return failed("the prediction does not depend on what is injected");
  }
  WriteGuard writes(parameters);
  try {
    const NetworkOutputs actual = outputs_from_start(*cut, tensors, 0);
    if (writes.undo()) return failed("forward() writes to the model's parameters");
    const auto of = [&](Network& network) {
      return [&](const Inputs& others, double varied_by) {
        return std::vector<NetworkOutputs>{outputs_from_start(network, others, varied_by)};
      };
    };
    const std::string how = difference({actual}, {expected}, tensors, of(*cut), of(hooked));
    if (writes.undo()) return failed("forward() writes to the model's parameters");
    if (!how.empty()) return failed("the traced model " + how);
  } catch (const std::exception& error) {
    const bool writes_parameters = writes.undo();
    const Attempt raised = failed_by(error, "the traced model raises");
    return writes_parameters ? failed("forward() writes to the model's parameters") : raised;
  }
  cut->name_parameters(parameters);
  return {std::move(cut), "", std::move(watch)};
}

}  // namespace it3::python
