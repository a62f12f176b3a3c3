#include <it3/backend/engine_state.h>

#include <optional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/serialize.h>

#include <it3/error_text.h>
#include <it3/options.h>

#include "files/archive.h"
#include "files/new_file.h"
#include "files/open_file.h"
#include "support/nearest_name.h"

namespace it3 {
namespace {

using Tensors = std::vector<at::Tensor>;
using Dict = c10::impl::GenericDict;
using TensorDict = c10::Dict<std::string, at::Tensor>;

constexpr const char* flags_name = "_extra_state";

c10::IValue list_of(const Tensors& tensors) {
  const c10::impl::GenericList list(c10::OptionalType::create(c10::TensorType::get()));
  for (const at::Tensor& t : tensors) list.push_back(t.defined() ? c10::IValue(t) : c10::IValue());
  return list;
}

Tensors tensors_from(const c10::IValue& list) {
  Tensors tensors;
  for (const c10::IValue& item : list.toListRef()) tensors.push_back(item.isNone() ? at::Tensor() : item.toTensor());
  return tensors;
}

Dict online_to_dict(const Online::State& state) {
  const TensorDict start;
  for (const auto& s : state.start) start.insert(s.name, s.value);
  const Dict dict(c10::StringType::get(), c10::AnyType::get());
  dict.insert("start", start);
  dict.insert("optimizer", std::string(to_string(state.optimizer_name)));
  dict.insert("momentum", list_of(state.optimizer.momentum));
  dict.insert("squares", list_of(state.optimizer.squares));
  dict.insert("steps", list_of(state.optimizer.steps));
  dict.insert("masters", list_of(state.optimizer.masters));
  dict.insert("stepped", c10::List<std::string>(c10::ArrayRef<std::string>(state.stepped)));
  dict.insert("average", list_of(state.average));
  c10::List<double> loss;
  if (state.loss_average) loss = c10::List<double>({state.loss_average->average, state.loss_average->least});
  dict.insert("loss_average", loss);
  return dict;
}

Online::State online_from(const c10::IValue& saved) {
  const auto dict = saved.toGenericDict();
  Online::State state;
  for (const auto& item : dict.at("start").toGenericDict()) {
    state.start.push_back({item.key().toStringRef(), item.value().toTensor()});
  }
  Options options;
  options.set("optimizer_name", dict.at("optimizer").toStringRef());
  state.optimizer_name = options.optimizer_name;
  state.optimizer = {
      tensors_from(dict.at("momentum")), tensors_from(dict.at("squares")), tensors_from(dict.at("steps")),
      tensors_from(dict.at("masters"))};
  for (const c10::IValue& name : dict.at("stepped").toListRef()) state.stepped.push_back(name.toStringRef());
  state.average = tensors_from(dict.at("average"));
  const auto loss = dict.at("loss_average").toDoubleVector();
  if (loss.size() == 2) state.loss_average = {loss[0], loss[1]};
  return state;
}

}  // namespace

void EngineState::check_fits(const std::map<std::string, at::Tensor>& own) const {
  std::vector<std::string> missing, unknown, others;
  for (const auto& [name, tensor] : own) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      missing.push_back(name);
      continue;
    }
    const bool can_be_empty = name.starts_with("embedder.");
    const bool is_empty = can_be_empty && (tensor.numel() == 0 || found->second.numel() == 0);
    if (!is_empty && found->second.sizes() != tensor.sizes()) {
      others.push_back(
          c10::str(name, " (", found->second.sizes(), " in the file, ", tensor.sizes(), " in the engine)"));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!own.contains(name)) unknown.push_back(name);
  }
  std::vector<std::string> faults;
  if (!missing.empty()) faults.push_back("missing " + detail::join(missing));
  if (!unknown.empty()) faults.push_back("unexpected " + detail::join(unknown));
  if (!others.empty()) faults.push_back("of another shape " + detail::join(others));
  TORCH_CHECK_VALUE(
      faults.empty(), "the saved state does not fit this engine: ", detail::join(faults),
      "; make the engine around the same model and embedder");
}

c10::IValue to_ivalue(const EngineState& state) {
  const TensorDict tensors;
  for (const auto& [name, tensor] : state.tensors) tensors.insert(name, tensor.detach());
  tensors.insert(flags_name, at::tensor({int{state.is_trained}, int{state.learned_probabilities}}).to(at::kBool));
  const Dict dict(c10::StringType::get(), c10::AnyType::get());
  dict.insert("state_dict", tensors);
  dict.insert("online", online_to_dict(state.online));
  return dict;
}

EngineState state_from(const c10::IValue& dict) {
  const auto parts = dict.toGenericDict();
  EngineState state;
  for (const auto& item : parts.at("state_dict").toGenericDict()) {
    state.tensors.emplace(item.key().toStringRef(), item.value().toTensor());
  }
  const at::Tensor flags = state.tensors.at(flags_name);
  state.tensors.erase(flags_name);
  state.is_trained = flags[0].item<bool>();
  state.learned_probabilities = flags[1].item<bool>();
  state.online = online_from(parts.at("online"));
  return state;
}

void write_state(const EngineState& state, const std::string& path) {
  const std::vector<char> bytes = torch::pickle_save(to_ivalue(state));
  detail::NewFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

EngineState read_state(const std::string& path) {
  auto file = detail::open_file(path);
  try {
    return state_from(detail::Archive(std::move(file)).unpickle("data", /*on_their_devices=*/true));
  } catch (const std::exception& error) {
    TORCH_CHECK(false, "'", path, "' is damaged, or not what Engine::save_state() wrote: ", error_text(error));
  }
}

}  // namespace it3
