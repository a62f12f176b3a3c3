#include <it3/backend/saved_engine.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <it3/backend/exported_function.h>
#include <it3/backend/script_function.h>
#include <it3/error_text.h>

#include "engine/options_in_files.h"
#include "exported/exported_program.h"
#include "files/archive.h"
#include "files/input_notes.h"
#include "files/open_file.h"
#include "files/saved_module.h"
#include "files/temporary_folder.h"
#include "method/passes.h"

namespace it3 {
namespace {

// The archive's extra file that makes it an engine: a pickled dictionary.
constexpr const char* record = "it3_engine";
constexpr std::int64_t format = 3;
constexpr const char* extra_channels_key = "embedder_extra_channels";  // of one without weights

using Dictionary = c10::impl::GenericDict;

// The same in a file of torch.export's.
constexpr const char* record_beside_program = "it3/engine";
constexpr const char* programs_folder = "it3/";
constexpr const char* programs_record = "programs.json";
constexpr std::array packages = {"prepare.pt2", "gradients.pt2", "gradients_of_rows.pt2", "first.pt2", "both.pt2"};

/// Functions of the user's own, archives of their own: in a file of TorchScript's as "it3_embedder", in one of
/// torch.export's as "it3/embedder.pt2".
constexpr const char *embedder_record = "embedder", *combine_record = "combine", *distance_record = "distance";

std::string record_of_script(const char* function) { return c10::str("it3_", function); }

void describe(const Dictionary& d, const SavedPrograms& programs) {
  d.insert("programs_layer", programs.layer);
  detail::insert_options(d, "programs_option_", programs.options);
  d.insert("programs_are_measured", programs.is_measured);
  d.insert("programs_adapted", programs.adapted);
  const c10::impl::GenericList constants(c10::AnyType::get());
  for (const auto& constant : programs.constants) {
    if (const auto* name = std::get_if<std::string>(&constant)) {
      constants.push_back(*name);
    } else {
      constants.push_back(std::get<at::Tensor>(constant).detach().cpu());
    }
  }
  d.insert("programs_constants", constants);
  d.insert("programs_torch", programs.torch);
  d.insert("programs_on_cuda", programs.device_type == c10::kCUDA);
  d.insert("programs_machine", programs.machine);
}

/// Puts packages into a temporary folder, or notes why that fails.
void unpack(SavedPrograms& programs, const detail::Archive& archive) {
  try {
    const auto folder = std::make_shared<detail::TemporaryFolder>();
    std::vector<std::string> names = {programs_record};
    for (const char* const name : packages) {
      if (archive.has(std::string(programs_folder) + name)) names.emplace_back(name);
    }
    for (const std::string& name : names) {
      const std::string content = archive.read(programs_folder + name);
      std::ofstream file(folder->path() / name, std::ios::binary);
      file.write(content.data(), static_cast<std::streamsize>(content.size()));
      TORCH_CHECK(file.flush().good(), "they cannot be written to the temporary folder ", folder->path().string());
    }
    programs.folder = folder->path();
    programs.keeps = folder;
  } catch (const std::exception& error) {
    programs.fault = error_text(error);
  }
}

/// Nothing if the file has none.
std::optional<SavedPrograms> programs_from(const Dictionary& d, const detail::Archive& archive) {
  if (!d.contains("programs_layer")) return std::nullopt;
  SavedPrograms programs;
  programs.layer = d.at("programs_layer").toStringRef();
  detail::take_options(d, "programs_option_", programs.options);
  programs.is_measured = d.at("programs_are_measured").toBool();
  programs.adapted = d.at("programs_adapted").to<std::vector<std::string>>();
  for (const c10::IValue& constant : d.at("programs_constants").toListRef()) {
    if (constant.isString()) {
      programs.constants.emplace_back(constant.toStringRef());
    } else {
      programs.constants.emplace_back(constant.toTensor());
    }
  }
  programs.torch = d.at("programs_torch").toStringRef();
  programs.device_type = d.at("programs_on_cuda").toBool() ? c10::kCUDA : c10::kCPU;
  programs.machine = d.at("programs_machine").to<std::vector<std::string>>();
  unpack(programs, archive);
  return programs;
}

constexpr const char *neutral_value = "neutral", *neutral_one_hot = "neutral_one_hot",
                     *neutral_labels = "neutral_labels";

void describe(const Dictionary& d, const Neutral& neutral) {
  if (const auto* const value = std::get_if<at::Tensor>(&neutral); value != nullptr && value->defined()) {
    d.insert(neutral_value, value->detach().cpu());
  }
  if (std::holds_alternative<RandomOneHot>(neutral)) d.insert(neutral_one_hot, true);
  if (const auto* const drawn = std::get_if<DrawnLabels>(&neutral)) {
    d.insert(neutral_labels, drawn->labels.detach().cpu());
  }
}

Dictionary describe(const SavedEngine& engine) {
  Dictionary d(c10::StringType::get(), c10::AnyType::get());
  d.insert("format", format);
  d.insert("layer", engine.layer);
  if (const auto* name = std::get_if<std::string>(&engine.distance); name != nullptr && !name->empty()) {
    d.insert("distance", *name);
  }
  const auto* const weights = std::get_if<EmbedderWeights>(&engine.embedder);
  if (weights != nullptr && !weights->are_learned()) {
    d.insert(extra_channels_key, weights->extra_channels);
  } else if (weights != nullptr && weights->weight1.defined()) {  // else a function beside the description
    d.insert("weight1", weights->weight1.detach().cpu());
    d.insert("bias1", weights->bias1.detach().cpu());
    d.insert("weight2", weights->weight2.detach().cpu());
    d.insert("bias2", weights->bias2.detach().cpu());
  }
  const auto insert_layout = [&](const std::string& name, const Layout& layout) {
    d.insert(name + "_channel_dim", c10::IValue(layout.channel_dim));
    d.insert(name + "_batch_dim", layout.batch_dim);
  };
  insert_layout("prediction", engine.prediction_layout);
  insert_layout("features", engine.features_layout);
  describe(d, engine.neutral);
  detail::insert_options(d, "option_", engine.options);
  if (engine.output) d.insert("output", to_text(*engine.output));
  if (engine.layer_output) d.insert("layer_output", to_text(*engine.layer_output));
  if (engine.in_dims) d.insert("in_dims", *engine.in_dims);
  d.insert("feedback", std::string(to_string(engine.feedback)));
  d.insert("is_trained", engine.is_trained);
  d.insert("learned_probabilities", engine.learned_probabilities);
  d.insert("calibrated_range", to_ivalue(engine.calibrated_range));
  d.insert("note_model", engine.notes.model);
  d.insert("note_inputs", engine.notes.inputs);
  d.insert("note_prediction", engine.notes.prediction);
  d.insert("note_features", engine.notes.features);
  if (engine.programs) describe(d, *engine.programs);
  return d;
}

std::optional<OutputPath> output_path_in(const Dictionary& d, const char* name) {
  return d.contains(name) ? std::optional(parse_output_path(d.at(name).toStringRef())) : std::nullopt;
}

/// @param function_in  reads a function of the user's own by its name, for a device; nothing where the file has none
SavedEngine undescribe(
    const Dictionary& d,
    SavedModule network,
    const std::function<std::optional<SavedModule>(const char*, c10::Device)>& function_in) {
  const auto layout = [&](const std::string& name) {
    return Layout{d.at(name + "_channel_dim").toOptional<std::int64_t>(), d.at(name + "_batch_dim").toInt()};
  };
  // One by one: where an element of a braced list throws, GCC 12 destroys others twice.
  SavedEngine engine(std::move(network));
  const c10::Device on = engine.device();
  const auto tensor = [&](const char* name) { return d.at(name).toTensor().to(on); };
  engine.layer = d.at("layer").toStringRef();
  engine.prediction_layout = layout("prediction");
  engine.features_layout = layout("features");
  engine.combine = function_in(combine_record, on);
  if (d.contains(neutral_value)) engine.neutral = tensor(neutral_value);
  if (d.contains(neutral_one_hot)) engine.neutral = RandomOneHot();
  if (d.contains(neutral_labels)) engine.neutral = DrawnLabels{tensor(neutral_labels)};
  engine.notes.model = d.at("note_model").toStringRef();
  engine.notes.inputs = d.at("note_inputs").to<std::vector<std::string>>();
  engine.notes.prediction = d.at("note_prediction").toStringRef();
  engine.notes.features = d.at("note_features").toStringRef();
  engine.output = output_path_in(d, "output");
  engine.layer_output = output_path_in(d, "layer_output");
  if (d.contains("in_dims")) engine.in_dims = d.at("in_dims");
  engine.feedback = feedback_by_name(d.at("feedback").toStringRef());
  engine.is_trained = d.at("is_trained").toBool();
  engine.learned_probabilities = d.at("learned_probabilities").toBool();
  engine.calibrated_range = prediction_range_from(d.at("calibrated_range"));
  if (auto embedder = function_in(embedder_record, on)) {
    engine.embedder = std::move(*embedder);
  } else if (d.contains(extra_channels_key)) {
    EmbedderWeights none;
    none.extra_channels = d.at(extra_channels_key).toInt();
    TORCH_CHECK_VALUE(none.extra_channels > 0, "its embedder has no extra channels");
    engine.embedder = none;
  } else {
    engine.embedder = EmbedderWeights{tensor("weight1"), tensor("bias1"), tensor("weight2"), tensor("bias2")};
  }
  if (auto distance = function_in(distance_record, on)) {
    engine.distance = std::move(*distance);
  } else {
    engine.distance = d.at("distance").toStringRef();
  }
  detail::take_options(d, "option_", engine.options);
  return engine;
}

/// @param parameters  whether the parameters, or all other tensors
std::vector<at::Tensor> tensors_in(const SavedModule& saved, bool parameters) {
  std::vector<at::Tensor> tensors;
  if (const auto* const module = std::get_if<torch::jit::Module>(&saved)) {
    if (parameters) {
      for (const at::Tensor& parameter : module->parameters()) tensors.push_back(parameter);
    } else {
      for (const at::Tensor& buffer : module->buffers()) tensors.push_back(buffer);
    }
    return tensors;
  }
  for (const ExportedTensor& tensor : std::get<ExportedGraph>(saved).tensors) {
    if (tensor.is_parameter == parameters) tensors.push_back(tensor.tensor);
  }
  return tensors;
}

/// The name of a record beside the module's own.
std::string in_archive(const std::string& name) { return std::string("extra/") + name; }

/// A record that is an archive.
detail::Archive archive_in(const detail::Archive& archive, const std::string& name) {
  return detail::Archive(std::make_unique<std::istringstream>(archive.read(name)));
}

/// What makes an archive an engine. Raises c10::ValueError if this it3 cannot read its format.
Dictionary description_in(const detail::Archive& archive, const std::string& name) {
  TORCH_CHECK_VALUE(archive.has(name), "it holds no engine; engine.save() writes one");
  const auto description = archive_in(archive, name).unpickle("data");
  TORCH_CHECK_VALUE(description.isGenericDict(), "its description of the engine is damaged");
  const Dictionary dictionary = description.toGenericDict();
  const std::int64_t found = dictionary.at("format").toInt();
  TORCH_CHECK_VALUE(
      found == format, "it has format ", found, ", but this it3 reads ", format, "; ",
      found > format ? "install a newer it3" : "save the engine again");
  return dictionary;
}

/// The file's tensors are on the CPU, wherever the engine was when it was saved.
SavedEngine engine_beside_program(const detail::Archive& archive, std::optional<c10::Device> device) {
  const Dictionary d = description_in(archive, record_beside_program);
  if (!device && d.contains("programs_on_cuda") && d.at("programs_on_cuda").toBool()) {
    TORCH_CHECK(
        at::hasCUDA(), "it was saved on a CUDA device, and none can be used here; give another device, such as cpu");
    device = c10::Device(c10::kCUDA);
  }
  const auto function_in = [&](const char* name, c10::Device on) -> std::optional<SavedModule> {
    const std::string of_function = c10::str(programs_folder, name, ".pt2");
    if (!archive.has(of_function)) return std::nullopt;
    return detail::exported_graph_in(archive_in(archive, of_function), std::nullopt, on);
  };
  SavedEngine engine =
      undescribe(d, detail::exported_graph_in(archive, output_path_in(d, "output"), device), function_in);
  engine.programs = programs_from(d, archive);
  return engine;
}

}  // namespace

Notes take_notes(ScriptNetwork& network, const Method& method, const Inputs& inputs) {
  const at::NoGradGuard no_grad;
  Notes notes;
  if (const auto name = network.module().type()->name()) notes.model = name->name();
  notes.inputs = detail::notes_of(inputs);
  const auto copy = network.checkout({});
  detail::PassInputs pass_inputs(inputs, inputs, network.may_write_inputs());
  Method noting = method;
  noting.embed = [&](const at::Tensor& prediction, const at::Tensor& features) {
    notes.features = detail::note(features);
    return method.embed(prediction, features);
  };
  const detail::Passes passes(noting, pass_inputs);
  const FirstPass first = passes.first(*copy);
  notes.prediction = detail::note(first.prediction);
  passes.second(*copy, first, first.prediction);
  return notes;
}

std::vector<at::Tensor> SavedEngine::parameters() const { return tensors_in(network, /*parameters=*/true); }

std::vector<at::Tensor> SavedEngine::buffers_of_functions() const {
  std::vector<at::Tensor> buffers;
  const auto add = [&](const SavedModule* function) {
    if (function == nullptr) return;
    for (const at::Tensor& buffer : tensors_in(*function, /*parameters=*/false)) buffers.push_back(buffer);
  };
  add(std::get_if<SavedModule>(&embedder));
  add(std::get_if<SavedModule>(&distance));
  add(combine ? &*combine : nullptr);
  return buffers;
}

std::map<std::string, at::Tensor> SavedEngine::tensors_of_functions() const {
  std::map<std::string, at::Tensor> tensors;
  const auto add = [&](const char* name, const SavedModule* function) {
    const auto* const program = function != nullptr ? std::get_if<ExportedGraph>(function) : nullptr;
    if (program == nullptr) return;
    for (const ExportedTensor& tensor : program->tensors)
      tensors.emplace(c10::str(name, ".", tensor.name), tensor.tensor);
  };
  add(embedder_record, std::get_if<SavedModule>(&embedder));
  add(combine_record, combine ? &*combine : nullptr);
  add(distance_record, std::get_if<SavedModule>(&distance));
  return tensors;
}

std::function<at::Tensor(const at::Tensor&, const at::Tensor&)> function_of(const SavedModule& saved) {
  if (const auto* const module = std::get_if<torch::jit::Module>(&saved)) return ScriptFunction(*module);
  return ExportedFunction(std::get<ExportedGraph>(saved));
}

c10::Device SavedEngine::device() const {
  const std::vector<at::Tensor> tensors = parameters();
  return tensors.empty() ? c10::Device(c10::kCPU) : tensors.front().device();
}

std::string description_of(const SavedEngine& engine) {
  const std::vector<char> pickled = torch::jit::pickle_save(describe(engine));
  return {pickled.begin(), pickled.end()};
}

void save_engine(const SavedEngine& engine, detail::NewFile& file) {
  torch::jit::ExtraFilesMap extra = {{record, description_of(engine)}};
  const auto add = [&](const char* name, const SavedModule* function) {
    if (function == nullptr) return;
    extra[record_of_script(name)] = detail::archive_of(std::get<torch::jit::Module>(*function));
  };
  add(embedder_record, std::get_if<SavedModule>(&engine.embedder));
  add(combine_record, engine.combine ? &*engine.combine : nullptr);
  add(distance_record, std::get_if<SavedModule>(&engine.distance));
  detail::save_module(std::get<torch::jit::Module>(engine.network), file, extra);
}

SavedEngine load_engine(const std::string& path, std::optional<c10::Device> device) {
  auto file = detail::open_file(path);
  std::istream& stream = *file;  // what was checked is what is read
  try {
    // All of it is checked before TorchScript reads it, which runs code of classes in it.
    const detail::Archive archive(std::move(file));
    if (detail::holds_exported_program(archive)) return engine_beside_program(archive, device);
    const Dictionary dictionary = description_in(archive, in_archive(record));
    archive.check_module();
    const auto function_in = [&](const char* name, c10::Device) -> std::optional<SavedModule> {
      const std::string of_function = in_archive(record_of_script(name));
      if (!archive.has(of_function)) return std::nullopt;
      archive_in(archive, of_function).check_module();
      std::istringstream content(archive.read(of_function));
      return torch::jit::load(content, device);
    };
    stream.clear();
    stream.seekg(0);
    torch::jit::Module network = torch::jit::load(stream, device);
    return undescribe(dictionary, std::move(network), function_in);
  } catch (const std::exception& error) {
    TORCH_CHECK(false, path, " cannot be read as an engine: ", error_text(error));
  }
}

}  // namespace it3
