#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <c10/util/ScopeExit.h>
#include <pybind11/functional.h>

#include <it3/backend/compiled.h>
#include <it3/backend/machine.h>
#include <it3/backend/saved_engine.h>
#include <it3/backend/saved_programs.h>

#include "bindings.h"
#include "files/new_file.h"
#include "in_dims_from_python.h"
#include "options_from_python.h"
#include "python_engine.h"
#include "translated.h"

namespace it3::python {
namespace {

py::dict to_python(const Notes& notes) {
  using py::literals::operator""_a;
  return py::dict(
      "model"_a = notes.model, "inputs"_a = notes.inputs, "prediction"_a = notes.prediction,
      "features"_a = notes.features);
}

py::object to_python(const std::optional<OutputPath>& path) {
  return path ? py::object(py::tuple(py::cast(*path))) : py::object(py::none());
}

/// A str, bytes or os.PathLike, as the system has it.
std::string path_from(const py::object& path) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), static_cast<void*>(&bytes)) == 0) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(bytes);
}

/// What a file holds beside its network and other TorchScript modules, which Python loads itself.
py::dict load(const py::object& path) {
  const SavedEngine engine = load_engine(path_from(path), c10::kCPU);
  py::object embedder = py::none(), distance = py::none();
  if (const auto* weights = std::get_if<EmbedderWeights>(&engine.embedder)) {
    embedder = weights->are_learned()
                   ? py::object(py::make_tuple(weights->weight1, weights->bias1, weights->weight2, weights->bias2))
                   : py::object(py::int_(weights->extra_channels));
  }
  if (const auto* name = std::get_if<std::string>(&engine.distance)) distance = py::str(*name);
  using py::literals::operator""_a;
  return py::dict(
      "layer"_a = engine.layer, "embedder"_a = embedder, "prediction_layout"_a = engine.prediction_layout,
      "features_layout"_a = engine.features_layout, "distance"_a = distance,
      "options"_a = python::to_python(engine.options),
      "neutral"_a = is_given(engine.neutral) ? py::cast(engine.neutral) : py::none(),
      "output"_a = to_python(engine.output), "layer_output"_a = to_python(engine.layer_output),
      "in_dims"_a = engine.in_dims ? python::to_python(*engine.in_dims) : py::none(),
      "feedback"_a = std::string(to_string(engine.feedback)), "is_trained"_a = engine.is_trained,
      "learned_probabilities"_a = engine.learned_probabilities,
      "calibrated_range"_a = range_to_python(engine.calibrated_range), "notes"_a = to_python(engine.notes),
      "is_script"_a = std::holds_alternative<torch::jit::Module>(engine.network),
      "programs"_a =
          engine.programs ? py::cast(std::make_shared<SavedPrograms>(*engine.programs)) : py::object(py::none()));
}

}  // namespace

void bind_files(py::module_& module) {
  using it3::detail::NewFile;
  const auto new_file = [](const py::object& path) { return std::make_unique<NewFile>(path_from(path)); };
  const auto partial = [](const NewFile& file) {
    return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefault(file.partial().c_str()));
  };
  const auto write = [](NewFile& file, const py::bytes& data) {
    const std::string_view bytes = data;
    file.write(bytes.data(), bytes.size());
    file.flush();
  };
  const auto exit = [](NewFile& file, const py::object& type, const py::object&, const py::object&) {
    const auto in_any_case = c10::make_scope_exit([&] { file.discard(); });
    if (type.is_none()) file.commit();
  };
  py::class_<NewFile>(
      module, "NewFile",
      "A file that appears under its name, by commit(), when it is complete. Raises RuntimeError, naming the file, if "
      "it cannot be written.")
      .def(py::init(translated(new_file)), py::arg("path"))
      .def_property_readonly("partial", partial, "Where it is until then.")
      .def("write", translated(write), py::arg("data"))
      .def("commit", translated(&NewFile::commit), "Has the disk keep it, and renames it.")
      .def("discard", &NewFile::discard, "Removes it, unless it was committed.")
      .def(
          "__enter__", [](NewFile& file) -> NewFile& { return file; }, py::return_value_policy::reference)
      .def(
          "__exit__", translated(exit), py::arg("type"), py::arg("value"), py::arg("traceback"),
          "Commits it, or removes it after an exception.");
  py::class_<SavedPrograms, std::shared_ptr<SavedPrograms>>(
      module, "SavedPrograms", "The compiled programs in an engine's file, with the names of what they are run on.")
      .def(
          py::init([](const py::dict& options, const c10::Device& device, bool is_measured, std::string layer,
                      std::vector<std::string> adapted, std::vector<std::variant<std::string, at::Tensor>> constants) {
            SavedPrograms programs;
            programs.layer = std::move(layer);
            programs.options = compiled_options(options_from(options));
            programs.is_measured = is_measured;
            programs.adapted = std::move(adapted);
            programs.constants = std::move(constants);
            programs.torch = torch_version();
            programs.device_type = device.type();
            programs.machine = machine_of(device);
            return programs;
          }),
          py::arg("options"), py::arg("device"), py::arg("is_measured"), py::arg("layer"), py::arg("adapted"),
          py::arg("constants"))
      .def_property_readonly(
          "names",
          [](const SavedPrograms& programs) {
            std::vector<std::string> names;
            for (const auto& constant : programs.constants) {
              if (const auto* const name = std::get_if<std::string>(&constant)) names.push_back(*name);
            }
            return names;
          },
          "Of the tensors that they read beside what adapts, those that are not their own.")
      .def_property_readonly(
          "device_type", [](const SavedPrograms& programs) { return c10::DeviceTypeName(programs.device_type, true); },
          "Of the device that they were compiled for: \"cpu\" or \"cuda\".")
      .def(
          "why_not",
          translated([](const SavedPrograms& programs, c10::Device device) { return programs.why_not(device); }),
          py::arg("device"), "Why they cannot be run by this torch on this device; empty if they can.");
  module.def(
      "load_engine", translated(load), py::arg("path"),
      "Reads what Engine.save() wrote, but for the TorchScript modules, which torch.jit.load reads.");
}

}  // namespace it3::python
