#include <it3/saved_engine.h>

#include <filesystem>

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

namespace it3 {
namespace {

// The archive's extra file that makes it an engine: a pickled dictionary.
constexpr const char* record = "it3_engine";
constexpr std::int64_t format = 1;

using Dictionary = c10::impl::GenericDict;

c10::IValue to_ivalue(const OptionValue& value) {
  return std::visit(
      [](const auto& v) {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
          return c10::IValue();
        } else {
          return c10::IValue(v);
        }
      },
      value);
}

OptionValue to_option(const c10::IValue& value) {
  if (value.isNone()) return std::monostate{};
  if (value.isBool()) return value.toBool();
  if (value.isInt()) return value.toInt();
  if (value.isDouble()) return value.toDouble();
  if (value.isString()) return value.toStringRef();
  if (value.isDoubleList()) return value.toDoubleVector();
  return value.to<std::vector<std::string>>();
}

Dictionary describe(const SavedEngine& engine) {
  Dictionary d(c10::StringType::get(), c10::AnyType::get());
  d.insert("format", format);
  d.insert("layer", engine.layer);
  d.insert("distance", engine.distance);
  d.insert("weight1", engine.embedder.weight1.detach().cpu());
  d.insert("bias1", engine.embedder.bias1.detach().cpu());
  d.insert("weight2", engine.embedder.weight2.detach().cpu());
  d.insert("bias2", engine.embedder.bias2.detach().cpu());
  const auto insert_layout = [&](const std::string& name, const Layout& layout) {
    d.insert(name + "_channel_dim", c10::IValue(layout.channel_dim));
    d.insert(name + "_batch_dim", layout.batch_dim);
  };
  insert_layout("prediction", engine.prediction_layout);
  insert_layout("features", engine.features_layout);
  for (const auto& [name, value] : engine.options.values()) d.insert("option_" + name, to_ivalue(value));
  return d;
}

SavedEngine undescribe(const Dictionary& d, torch::jit::Module network) {
  const auto parameters = network.parameters();
  const c10::Device device = parameters.size() == 0 ? c10::Device(c10::kCPU) : (*parameters.begin()).device();
  const auto tensor = [&](const char* name) { return d.at(name).toTensor().to(device); };
  const auto layout = [&](const std::string& name) {
    return Layout{d.at(name + "_channel_dim").toOptional<std::int64_t>(), d.at(name + "_batch_dim").toInt()};
  };
  SavedEngine engine{
      std::move(network),
      d.at("layer").toStringRef(),
      {tensor("weight1"), tensor("bias1"), tensor("weight2"), tensor("bias2")},
      layout("prediction"),
      layout("features"),
      d.at("distance").toStringRef(),
      {}};
  constexpr std::string_view prefix = "option_";
  for (const auto& item : d) {
    const std::string& key = item.key().toStringRef();
    if (key.starts_with(prefix)) engine.options.set(key.substr(prefix.size()), to_option(item.value()));
  }
  return engine;
}

}  // namespace

void save_engine(const SavedEngine& engine, const std::string& path) {
  const std::vector<char> description = torch::jit::pickle_save(describe(engine));
  const torch::jit::ExtraFilesMap extra = {{record, std::string(description.begin(), description.end())}};
  const std::string partial = path + ".partial";
  try {
    engine.network.save(partial, extra);
    std::filesystem::rename(partial, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw;
  }
}

SavedEngine load_engine(const std::string& path, std::optional<c10::Device> device) {
  TORCH_CHECK(std::filesystem::exists(path), "there is no file ", path);
  torch::jit::ExtraFilesMap extra = {{record, ""}};
  torch::jit::Module network("unread");
  c10::IValue description;
  try {
    network = torch::jit::load(path, device, extra);
    if (!extra[record].empty()) {
      description = torch::jit::pickle_load(std::vector<char>(extra[record].begin(), extra[record].end()));
    }
  } catch (const std::exception& error) {
    TORCH_CHECK(false, path, " is not a TorchScript archive, or is damaged: ", c10::str(error.what()).substr(0, 200));
  }
  TORCH_CHECK(
      description.isGenericDict(), path, " is a TorchScript module, but holds no engine; save one by engine.save()");
  const Dictionary dictionary = description.toGenericDict();
  const std::int64_t found = dictionary.at("format").toInt();
  TORCH_CHECK(
      found <= format, path, " has format ", found, ", but this it3 reads up to ", format, "; install a newer it3");
  return undescribe(dictionary, std::move(network));
}

}  // namespace it3
