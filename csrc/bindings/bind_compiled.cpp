#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <it3/backend/compiled.h>
#include <it3/backend/compiled_program.h>
#include <it3/backend/machine.h>
#include <it3/backend/normalization.h>
#include <it3/backend/saved_programs.h>

#include "bind_hold.h"
#include "bindings.h"
#include "capture.h"
#include "eager_cut.h"
#include "python_engine.h"
#include "translated.h"
#include "watch.h"

namespace it3::python {
namespace {

PackageLoading turn_to_load() {
  const py::gil_scoped_release no_gil;  // whoever loads may need it to come to an end
  return PackageLoading();
}

/// A context manager: has a turn, which others wait for.
template <auto take>
class TurnHold {
 public:
  void enter() { turn_.emplace(take()); }
  void exit() { turn_.reset(); }

 private:
  std::optional<decltype(take())> turn_;
};

}  // namespace

void bind_compiled(py::module_& module) {
  bind_hold<TurnHold<turn_to_trace>>(
      module, "TracingHold", "Waits until no thread traces by torch.export, and keeps it so.")
      .def(py::init<>());
  bind_hold<TurnHold<turn_to_load>>(
      module, "LoadingHold", "Waits until no thread loads a compiled program, and keeps it so.")
      .def(py::init<>());
  py::class_<Capture>(module, "Capture", "One kind of call of an engine, whose evaluations are recorded.")
      .def(
          py::init(translated([](const PythonEngine::Setup& setup, const py::object& inputs, const py::dict& options) {
            return std::make_unique<Capture>(setup, inputs, options);
          })),
          py::arg("setup"), py::arg("inputs"), py::arg("options"))
      .def_property_readonly("program", &Capture::program)
      .def_property_readonly("description", &Capture::description)
      .def_property_readonly("adapted", &Capture::adapted)
      .def_property_readonly("reads", &Capture::reads)
      .def_property_readonly("neutral", &Capture::neutral)
      .def_property_readonly("has_functions", &Capture::has_functions)
      .def_property_readonly("inputs", &Capture::inputs)
      .def_property_readonly(
          "has_anchor", [](const Capture& capture) { return capture.options().anchor != AnchorKind::self; })
      .def_property_readonly("per_sample", [](const Capture& capture) { return capture.options().per_sample; })
      .def_property_readonly(
          "normalizes_by_batch",
          [](const Capture& capture) { return capture.options().norm_statistics != NormStatistics::running; })
      .def(
          "batch_norm",
          translated([](const Capture& capture, const at::Tensor& x, const std::optional<at::Tensor>& weight,
                        const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                        const at::Tensor& running_var, double eps) {
            return batch_norm(
                x, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), running_mean, running_var, eps,
                capture.options().normalization());
          }),
          py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("running_mean"), py::arg("running_var"),
          py::arg("eps"), "Batch normalization as norm_statistics says.")
      .def(
          "step",
          translated([](Capture& capture, const py::object& network, const std::vector<at::Tensor>& weights,
                        const std::vector<at::Tensor>& anchor, const std::vector<at::Tensor>& inputs,
                        const std::optional<at::Tensor>& rows) {
            return capture.step(network, weights, anchor, inputs, rows);
          }),
          py::arg("network"), py::arg("weights"), py::arg("anchor"), py::arg("inputs"), py::arg("rows"),
          "The loss, the first prediction, and the gradients of the loss by the weights.")
      .def(
          "answer",
          translated([](Capture& capture, const py::object& network, const std::vector<at::Tensor>& weights,
                        const std::vector<at::Tensor>& inputs,
                        bool with_second) { return capture.answer(network, weights, inputs, with_second); }),
          py::arg("network"), py::arg("weights"), py::arg("inputs"), py::arg("with_second"), "The predictions.")
      .def(
          "check", translated([](const Capture& capture, std::vector<at::Tensor> constants) {
            capture.what(std::move(constants));
          }),
          py::arg("constants"), "Raises ValueError where what adapts shares memory with anything else.")
      .def("close", &Capture::close, "Lets the model go, so that other threads may change it.");

  py::class_<Compiled, std::shared_ptr<Compiled>>(module, "Compiled", "The evaluations of an engine as programs.")
      .def(
          py::init(translated([](const Capture& capture, std::vector<at::Tensor> constants, const std::string& folder,
                                 bool is_measured, const std::optional<std::shared_ptr<Watch>>& watch) {
            Compiled::For what = capture.what(std::move(constants), watch.value_or(nullptr));
            const c10::Device device = what.adapted.at(0).tensor.device();
            const py::gil_scoped_release no_gil;
            return std::make_shared<Compiled>(std::move(what), Compiled::Programs::read(folder, device), is_measured);
          })),
          py::arg("capture"), py::arg("constants"), py::arg("folder"), py::arg("is_measured"), py::arg("watch"),
          "Reads programs from a folder, see Compiled::Programs::read().");
  module.def(
      "use_compiled",
      translated([](PythonEngine& engine, const PythonEngine::Setup& setup, const std::shared_ptr<Compiled>& compiled) {
        engine.use(setup, compiled);
      }),
      py::arg("engine"), py::arg("setup"), py::arg("compiled"),
      "Lets calls with a setup be evaluated by programs, while the engine's attributes are the same.");
  module.def(
      "machine_of", translated(machine_of), py::arg("device"), "What compiled code for a device needs of the machine.");

  module.def(
      "use_saved_programs",
      translated([](PythonEngine& engine, const PythonEngine::Setup& setup, const py::object& inputs,
                    const SavedPrograms& programs, const std::map<std::string, at::Tensor>& of_functions,
                    const std::optional<std::shared_ptr<Watch>>& watch) {
        engine.use(setup, inputs, programs, of_functions, asking(watch.value_or(nullptr)));
      }),
      py::arg("engine"), py::arg("setup"), py::arg("inputs"), py::arg("programs"), py::arg("of_functions"),
      py::arg("watch"),
      "Lets calls of the kind of these be evaluated by programs. Raises RuntimeError where they do not fit the "
      "engine.");
}

}  // namespace it3::python
