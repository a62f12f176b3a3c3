#include <it3/backend/saved_programs.h>

#include <algorithm>
#include <utility>

#include <c10/util/Exception.h>
#include <torch/version.h>

#include <it3/backend/compiled.h>
#include <it3/backend/machine.h>

#include "support/nearest_name.h"

namespace it3 {
namespace {

std::map<std::string, at::Tensor> tensors_by_name(
    const Network& network, const Method& method, std::map<std::string, at::Tensor> tensors) {
  for (const auto& [name, tensor] : network.named_tensors()) tensors.emplace("model." + name, tensor);
  const auto* const neutral = std::get_if<at::Tensor>(&method.neutral);
  if (neutral != nullptr && neutral->defined()) tensors.emplace("neutral", *neutral);
  return tensors;
}

}  // namespace

std::string torch_version() { return TORCH_VERSION; }

std::string SavedPrograms::why_not(c10::Device device) const {
  if (torch != torch_version()) {
    return c10::str("they were compiled by torch ", torch, ", but this is torch ", torch_version());
  }
  if (device.type() != device_type) {
    return c10::str("they were compiled for a device of type ", device_type, ", but the engine is on ", device);
  }
  if (!fault.empty()) return fault;
  const std::vector<std::string> own = machine_of(device);
  std::vector<std::string> missing;
  for (const std::string& word : machine) {
    if (std::find(own.begin(), own.end(), word) == own.end()) missing.push_back(word);
  }
  if (missing.empty()) return "";
  return c10::str("they were compiled for another machine: ", device, " has no ", detail::join(missing));
}

std::shared_ptr<const Compiled> SavedPrograms::bind(
    const Network& network,
    const Method& method,
    const std::map<std::string, at::Tensor>& of_functions,
    std::function<bool()> have_functions_changed) const {
  const auto tensors = tensors_by_name(network, method, of_functions);
  const auto tensor = [&](const std::string& name) {
    const auto found = tensors.find(name);
    TORCH_CHECK(found != tensors.end(), "the engine has no tensor '", name, "'");
    return found->second;
  };
  Compiled::For what;
  what.network = network.id();
  what.options = options;
  for (const std::string& name : adapted) what.adapted.push_back({name, tensor("model." + name)});
  TORCH_CHECK(!what.adapted.empty(), "no parameter adapts");
  const c10::Device device = what.adapted.front().tensor.device();
  for (const auto& constant : constants) {
    const auto* const name = std::get_if<std::string>(&constant);
    what.constants.push_back(name != nullptr ? tensor(*name) : std::get<at::Tensor>(constant).to(device));
  }
  what.reads = method.reads;
  what.in_dims = method.in_dims;
  what.have_functions_changed = std::move(have_functions_changed);
  return std::make_shared<Compiled>(std::move(what), Compiled::Programs::read(folder, device), is_measured, keeps);
}

}  // namespace it3
