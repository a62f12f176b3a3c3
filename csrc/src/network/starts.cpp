#include "network/starts.h"

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "support/write_all.h"
#include "support/write_count.h"

namespace it3::detail {
namespace {

const void* address_of(const at::Tensor& t) { return t.unsafeGetTensorImpl()->storage().data(); }

}  // namespace

Starts& Starts::of_all_models() {
  static auto* const all = new Starts;  // never destroyed: engines in static objects may end after it
  return *all;
}

Starts::Entry* Starts::entry_of(const at::Tensor& parameter) {
  const auto found = entries_.find(parameter.unsafeGetTensorImpl());
  return found == entries_.end() || found->second.group->has_ended ? nullptr : &found->second;
}

Starts::Entry& Starts::make(const at::Tensor& parameter, at::Tensor value) {
  std::erase_if(
      entries_, [](const auto& item) { return item.second.group->has_ended || item.second.parameter.expired(); });
  Entry entry{
      decltype(Entry::parameter)(parameter.getIntrusivePtr()),
      {std::move(value), ++last_number_},
      version_of(parameter),
      address_of(parameter),
      std::make_shared<Group>()};
  return entries_.insert_or_assign(parameter.unsafeGetTensorImpl(), std::move(entry)).first->second;
}

bool Starts::is_changed(const Entry& entry, const at::Tensor& parameter) {
  return entry.address != address_of(parameter) || entry.version != version_of(parameter);
}

std::optional<Starts::Start> Starts::find(const at::Tensor& parameter) {
  const std::scoped_lock lock(mutex_);
  const Entry* const entry = entry_of(parameter);
  return entry != nullptr ? std::optional(entry->start) : std::nullopt;
}

bool Starts::counts(const at::TensorImpl* parameter, std::uint64_t number) {
  const std::scoped_lock lock(mutex_);
  const auto found = entries_.find(parameter);
  return found != entries_.end() && found->second.start.number == number && !found->second.group->has_ended;
}

void Starts::adopt(const at::Tensor& parameter, const at::Tensor& value) {
  const std::scoped_lock lock(mutex_);
  if (entry_of(parameter) == nullptr) make(parameter, value);
}

std::vector<Starts::Start> Starts::begin(const std::vector<NamedParameter>& parameters) {
  const c10::InferenceMode no_inference(false);
  const std::scoped_lock lock(mutex_);
  std::vector<Entry*> entries;
  entries.reserve(parameters.size());
  for (const auto& parameter : parameters) {
    if (entry_of(parameter.tensor) == nullptr) make(parameter.tensor, parameter.tensor.detach().clone());
  }
  for (const auto& parameter : parameters) entries.push_back(entry_of(parameter.tensor));
  std::vector<Start> starts;
  for (const Entry* const entry : entries) {
    starts.push_back(entry->start);
    const auto group = entry->group;
    if (group == entries.front()->group) continue;
    for (auto& item : entries_) {
      if (item.second.group == group) item.second.group = entries.front()->group;
    }
  }
  return starts;
}

void Starts::end_changed(const std::vector<NamedParameter>& parameters) {
  const std::scoped_lock lock(mutex_);
  for (const auto& parameter : parameters) {
    const Entry* const entry = entry_of(parameter.tensor);
    if (entry != nullptr && is_changed(*entry, parameter.tensor)) entry->group->has_ended = true;
  }
}

bool Starts::has_changed(const std::vector<NamedParameter>& parameters) {
  const std::scoped_lock lock(mutex_);
  return std::any_of(parameters.begin(), parameters.end(), [&](const auto& parameter) {
    const Entry* const entry = entry_of(parameter.tensor);
    return entry != nullptr && is_changed(*entry, parameter.tensor);
  });
}

void Starts::note(const std::vector<NamedParameter>& parameters) {
  const std::scoped_lock lock(mutex_);
  for (const auto& parameter : parameters) {
    Entry* const entry = entry_of(parameter.tensor);
    if (entry == nullptr) continue;
    entry->version = version_of(parameter.tensor);
    entry->address = address_of(parameter.tensor);
  }
}

void Starts::go_back(const std::vector<NamedParameter>& parameters) {
  const std::scoped_lock lock(mutex_);
  std::vector<at::Tensor> tensors, values;
  for (const auto& parameter : parameters) {
    const Entry* const entry = entry_of(parameter.tensor);
    if (entry == nullptr) continue;
    tensors.push_back(parameter.tensor);
    values.push_back(entry->start.value);
  }
  write_all(tensors, values);
  for (const at::Tensor& tensor : tensors) entries_.erase(tensor.unsafeGetTensorImpl());
}

}  // namespace it3::detail
