#include <it3/backend/plain_backward.h>
#include <it3/options.h>

#include "bindings.h"
#include "options_from_python.h"
#include "translated.h"

namespace it3::python {

void bind_options(py::module_& module) {
  py::class_<OptionInfo>(module, "OptionInfo", "What is known of an option, for people and for other languages.")
      .def_readonly("name", &OptionInfo::name)
      .def_readonly("type", &OptionInfo::type, "As Python writes it.")
      .def_readonly("accepted", &OptionInfo::accepted, "In words.")
      .def_readonly("default_text", &OptionInfo::default_text, "As Python writes it.")
      .def_readonly("documentation", &OptionInfo::documentation);
  module.def(
      "use_plain_backward", &use_plain_backward, py::arg("on"),
      "Whether plain autograd graphs are run backwards without torch's engine, as they are from the start.");
  module.def("option_infos", &option_infos, "All options, in the order in which they are documented.");
  module.def(
      "options_of", translated([](const py::dict& options) { return to_python(options_from(options)); }),
      py::arg("options"),
      "All options that are set, by default or by these. Raises what the core would raise for them.");
  module.def(
      "overridden", translated(overridden), py::arg("options"), py::arg("others"),
      "Options with others in place of some. What says more about a choice that these change goes with that choice.");
}

}  // namespace it3::python
