#include "checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/headeronly/version.h>

#include "files/archive.h"
#include "files/new_file.h"
#include "files/open_file.h"
#include "support/crc32.h"
#include "version.h"

namespace it3::apps {
namespace {

using Texts = std::map<std::string, std::string>;
using Dict = c10::impl::GenericDict;

Dict new_dict() { return Dict(c10::StringType::get(), c10::AnyType::get()); }

c10::IValue to_ivalue(const Texts& texts) {
  const c10::Dict<std::string, std::string> dict;
  for (const auto& [name, text] : texts) dict.insert(name, text);
  return dict;
}

Texts texts_from(const c10::IValue& dict) {
  Texts texts;
  for (const auto& item : dict.toGenericDict()) texts.emplace(item.key().toStringRef(), item.value().toStringRef());
  return texts;
}

c10::IValue to_ivalue(const Results& results) {
  const Dict dict = new_dict();
  dict.insert("samples", results.samples);
  dict.insert("batches", results.batches);
  dict.insert("steps", results.steps);
  dict.insert("uncertainty", results.uncertainty);
  dict.insert("first_loss", results.first_loss);
  dict.insert("last_loss", results.last_loss);
  dict.insert("adapted_samples", results.adapted_samples);
  dict.insert("recoveries", results.recoveries);
  dict.insert("seconds", results.seconds);
  return dict;
}

Results results_from(const c10::IValue& value) {
  const Dict dict = value.toGenericDict();
  Results results;
  results.samples = dict.at("samples").toInt();
  results.batches = dict.at("batches").toInt();
  results.steps = dict.at("steps").toInt();
  results.uncertainty = dict.at("uncertainty").toDouble();
  results.first_loss = dict.at("first_loss").toDouble();
  results.last_loss = dict.at("last_loss").toDouble();
  results.adapted_samples = dict.at("adapted_samples").toInt();
  results.recoveries = dict.at("recoveries").toInt();
  results.seconds = dict.at("seconds").toDouble();
  return results;
}

/// By which a file is known to be unchanged.
std::string size_and_time(const std::string& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) return "";
  const auto text = [](const timespec& time) { return c10::str(time.tv_sec, ".", time.tv_nsec); };
  return c10::str(status.st_size, " bytes of ", text(status.st_mtim), ", changed ", text(status.st_ctim));
}

/// "--online" or "--lr 0.1".
std::string written(const Texts& options, const std::string& name) {
  const auto found = options.find(name);
  if (found == options.end()) return "no " + name;
  return found->second.empty() ? name : name + " " + found->second;
}

/// The generators of the CPU and of a device.
std::vector<at::Generator> generators_of(c10::Device device) {
  std::vector<at::Generator> generators = {at::globalContext().defaultGenerator(at::kCPU)};
  if (!device.is_cpu()) generators.push_back(at::globalContext().defaultGenerator(device));
  return generators;
}

}  // namespace

std::vector<at::Tensor> random_state(c10::Device device) {
  std::vector<at::Tensor> states;
  for (at::Generator generator : generators_of(device)) {
    const std::scoped_lock lock(generator.mutex());
    states.push_back(generator.get_state());
  }
  return states;
}

void set_random_state(c10::Device device, const std::vector<at::Tensor>& states) {
  std::vector<at::Generator> generators = generators_of(device);
  for (std::size_t i = 0; i < generators.size(); ++i) {
    const std::scoped_lock lock(generators[i].mutex());
    generators[i].set_state(states.at(i).cpu());
  }
}

CheckpointFile::CheckpointFile(
    std::string path, std::map<std::string, std::string> options, const std::vector<std::string>& inputs)
    : path_(std::move(path)), options_(std::move(options)) {
  options_["it3"] = version;
  options_["torch"] = TORCH_VERSION;
  for (const std::string& input : inputs) inputs_[input] = size_and_time(input);
}

std::string CheckpointFile::tag() const {
  std::uint32_t tag = 0;
  for (const auto& [name, text] : options_) {
    const std::string both = c10::str(name, '\n', text, '\n');
    tag = detail::crc32(both.data(), both.size(), tag);
  }
  return std::to_string(tag);
}

std::optional<Checkpoint> CheckpointFile::read() const {
  std::error_code ignored;
  if (!std::filesystem::exists(path_, ignored)) return std::nullopt;
  Checkpoint checkpoint;
  Texts options, inputs;
  try {
    const detail::Archive archive(detail::open_file(path_));
    const Dict dict = archive.unpickle("data", /*on_their_devices=*/true).toGenericDict();
    options = texts_from(dict.at("options"));
    inputs = texts_from(dict.at("inputs"));
    checkpoint.results = results_from(dict.at("results"));
    checkpoint.threshold = dict.at("threshold").toOptional<double>();
    checkpoint.calibrated_range = prediction_range_from(dict.at("calibrated_range"));
    checkpoint.predictions = dict.at("predictions");
    checkpoint.uncertainty = dict.at("uncertainty");
    checkpoint.engine = dict.at("engine");
    checkpoint.buffers_of_functions = dict.at("buffers_of_functions").toTensorVector();
    checkpoint.random_state = dict.at("random_state").toTensorVector();
  } catch (const std::exception&) {
    TORCH_CHECK(
        false, "cannot go on from ", path_, ", which is damaged, or not what --resume wrote; delete it to begin anew");
  }
  Texts names = options;
  names.insert(options_.begin(), options_.end());
  for (const auto& [name, text] : names) {
    const std::string then = written(options, name), now = written(options_, name);
    TORCH_CHECK(
        then == now, "cannot go on from ", path_, ": it was begun with ", then, ", and this is with ", now,
        "; give what it was begun with, or delete it to begin anew");
  }
  for (const auto& [name, text] : inputs_) {
    TORCH_CHECK(
        inputs[name] == text, "cannot go on from ", path_, ": ", name,
        " has changed since it was begun; delete it to begin anew");
  }
  return checkpoint;
}

bool CheckpointFile::is_due() const { return Clock::now() >= next_; }

void CheckpointFile::write(const std::function<Checkpoint()>& take) {
  const auto begin = Clock::now();
  const Checkpoint checkpoint = take();
  const Dict dict = new_dict();
  dict.insert("options", to_ivalue(options_));
  dict.insert("inputs", to_ivalue(inputs_));
  dict.insert("results", to_ivalue(checkpoint.results));
  dict.insert("threshold", checkpoint.threshold);
  dict.insert("calibrated_range", to_ivalue(checkpoint.calibrated_range));
  dict.insert("predictions", checkpoint.predictions);
  dict.insert("uncertainty", checkpoint.uncertainty);
  dict.insert("engine", checkpoint.engine);
  dict.insert("buffers_of_functions", checkpoint.buffers_of_functions);
  dict.insert("random_state", checkpoint.random_state);
  const std::vector<char> bytes = torch::jit::pickle_save(dict);
  detail::NewFile file(path_);
  file.write(bytes.data(), bytes.size());
  file.commit();
  constexpr int share = 20;
  next_ = Clock::now() + (share - 1) * (Clock::now() - begin);
}

void CheckpointFile::remove() const {
  TORCH_CHECK(
      ::unlink(path_.c_str()) == 0 || errno == ENOENT, "cannot delete ", path_, ": ",
      std::generic_category().message(errno));
}

}  // namespace it3::apps
