#include <memory>

#include "bindings.h"
#include "output_choice.h"
#include "thread_hook.h"
#include "translated.h"
#include "watch.h"

namespace it3::python {

void bind_reads(py::module_& module) {
  py::class_<Watch, std::shared_ptr<Watch>>(module, "Watch", "What code has read of Python; see it3.cutting.reads.")
      .def(py::init(translated([](const py::list& facts) { return std::make_shared<Watch>(facts); })), py::arg("facts"))
      .def("has_changed", &Watch::has_changed, "Whether anything is not as it was.")
      .def("__len__", &Watch::size);

  module.def(
      "check_output_choice", translated([](const py::object& output, const py::object& layer_output) {
        output_choice(output, "output", /*may_be_function=*/true);
        output_choice(layer_output, "layer_output", /*may_be_function=*/false);
      }),
      py::arg("output"), py::arg("layer_output"), "Raises TypeError for what is no path, nor a function.");
  module.def(
      "chosen_output", translated([](const py::object& output, const py::object& chosen, const py::object& type) {
        return chosen_output(
            output, output_choice(chosen, "output", true), [&](py::handle o) { return py::isinstance(o, type); });
      }),
      py::arg("output"), py::arg("chosen"), py::arg("tensor_type"),
      "The prediction in what a model returned, where instances of tensor_type count as tensors.");
  module.def(
      "replace_at",
      translated([](const py::object& output, const py::object& chosen, const py::function& replace,
                    const py::object& type, const std::string& layer_name) {
        return replace_at(
            output, output_choice(chosen, "layer_output", false).path,
            [&](py::handle tensor) { return replace(tensor); }, [&](py::handle o) { return py::isinstance(o, type); },
            layer_name);
      }),
      py::arg("output"), py::arg("chosen"), py::arg("replace"), py::arg("tensor_type"), py::arg("layer_name"),
      "What a layer returned with the tensor that is injected into replaced.");
  module.def(
      "run_profiled",
      [](const py::function& profiler, const py::function& function) {
        const KeptProfiler kept;
        py::module_::import("sys").attr("setprofile")(profiler);
        return py::object(function());
      },
      py::arg("profiler"), py::arg("function"),
      "Calls a function with this profiler, while one of the caller's waits, and returns its result.");
}

}  // namespace it3::python
