#include <it3/backend/swapped_weights.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "support/shared_memory.h"
#include "support/write_all.h"
#include "support/write_count.h"

namespace it3 {
namespace {

std::vector<at::Tensor> chosen(const std::vector<at::Tensor>& tensors, const std::vector<std::size_t>& places) {
  std::vector<at::Tensor> some;
  some.reserve(places.size());
  for (const std::size_t place : places) some.push_back(tensors[place]);
  return some;
}

/// Two adapted parameters of a group would each be stepped, and the one with gaps cannot be.
void check_group(const std::vector<std::size_t>& group, const std::vector<NamedParameter>& adapted) {
  std::vector<const NamedParameter*> leaves;
  for (const std::size_t place : group) {
    if (place < adapted.size()) leaves.push_back(&adapted[place]);
  }
  TORCH_CHECK_VALUE(
      leaves.size() < 2, "the parameters '", leaves.size() < 2 ? "" : leaves[0]->name, "' and '",
      leaves.size() < 2 ? "" : leaves[1]->name,
      "' share memory, so they cannot both adapt. Select only one of them with the option 'parameters' (the other "
      "follows it), or use one and the same parameter for both");
  for (const auto* leaf : leaves) {
    TORCH_CHECK_VALUE(
        leaf->tensor.is_non_overlapping_and_dense(), "the parameter '", leaf->name, "' of shape ", leaf->tensor.sizes(),
        " and strides ", leaf->tensor.strides(),
        " is not contiguous and shares memory with another tensor of the model, so it cannot adapt; make it "
        "contiguous, or leave it out with the option 'parameters'");
  }
}

}  // namespace

std::vector<at::Tensor> copies_with_shared_memory(const std::vector<at::Tensor>& tensors) {
  const c10::InferenceMode no_inference(false);
  std::vector<at::Tensor> copies(tensors.size()), others = tensors;
  for (const auto& group : detail::overlapping(tensors)) {
    const auto of_group = detail::copies_of_group(chosen(tensors, group));
    for (std::size_t i = 0; i < group.size(); ++i) {
      copies[group[i]] = of_group[i];
      others[group[i]].reset();
    }
  }
  const auto together = detail::copies_side_by_side(others);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (others[i].defined()) copies[i] = together[i].defined() ? together[i] : others[i].detach().clone();
  }
  return copies;
}

void KeptValues::keep(const at::Tensor& tensor) { kept_.emplace_back(tensor, tensor.detach().clone()); }

KeptValues::~KeptValues() {
  for (const auto& [tensor, before] : kept_) {
    try {
      const c10::InferenceMode inference;
      if (!at::equal(tensor, before)) tensor.copy_(before);
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the others still get theirs
    }
  }
}

SwappedWeights::SwappedWeights(
    const std::vector<NamedParameter>& adapted,
    const std::vector<at::Tensor>& others,
    const std::vector<at::Tensor>& writable) {
  const c10::InferenceMode no_inference(false);
  // All that can fail comes before the first change.
  std::unordered_map<at::TensorImpl*, std::size_t> places;
  std::vector<at::Tensor> all;
  std::vector<bool> is_writable;
  std::size_t made_in_inference_mode = 0;
  const auto add = [&](const at::Tensor& tensor, bool may_be_written) {
    if (!tensor.defined()) return;
    const auto [known, is_new] = places.emplace(tensor.unsafeGetTensorImpl(), all.size());
    if (!is_new) {
      if (known->second < all.size()) is_writable[known->second] = is_writable[known->second] || may_be_written;
      return;
    }
    if (!detail::counts_writes(tensor)) {
      known->second = SIZE_MAX;
      ++made_in_inference_mode;
      if (may_be_written) unlent_.keep(tensor);
      return;
    }
    all.push_back(tensor);
    is_writable.push_back(may_be_written);
  };
  for (const auto& parameter : adapted) add(parameter.tensor, false);
  for (const auto& tensor : writable) add(tensor, true);
  for (const auto& tensor : others) add(tensor, false);
  TORCH_CHECK_VALUE(
      adapted.empty() || made_in_inference_mode == 0, made_in_inference_mode,
      " of the model's tensors were created in inference mode, so autograd cannot differentiate through them. Create "
      "the model outside of it, or replace them by clones made outside; num_steps=0 works without that");

  std::vector<at::Tensor> owns;
  owns.reserve(all.size());
  for (const auto& tensor : all) owns.push_back(tensor.detach());
  std::vector<at::Tensor> copies(all.size());
  std::vector<std::vector<std::size_t>> groups;
  for (auto& group : detail::overlapping(owns)) {
    check_group(group, adapted);
    const bool is_lent =
        std::any_of(group.begin(), group.end(), [&](std::size_t i) { return i < adapted.size() || is_writable[i]; });
    if (!is_lent) continue;
    const auto of_group = detail::copies_of_group(chosen(owns, group));
    for (std::size_t i = 0; i < group.size(); ++i) copies[group[i]] = of_group[i];
    groups.push_back(std::move(group));
  }
  std::vector<at::Tensor> apart(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!copies[i].defined() && (i < adapted.size() || is_writable[i])) apart[i] = owns[i];
  }
  const auto together = detail::copies_side_by_side(apart);
  std::vector<std::size_t> place_in_lent(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (apart[i].defined()) copies[i] = together[i].defined() ? together[i] : apart[i].clone();
    const at::Tensor& tensor = all[i];
    if (copies[i].defined()) {
      place_in_lent[i] = swapped_.size();
      swapped_.push_back(
          {tensor, owns[i], copies[i], tensor.requires_grad(), tensor.is_leaf(), is_writable[i],
           detail::version_of(tensor)});
    }
    if (i < adapted.size()) {
      adapted_.push_back(tensor);
      values_.push_back(copies[i]);
    } else if (tensor.is_leaf() && tensor.requires_grad()) {
      fixed_.push_back(tensor);
    }
  }
  for (auto& group : groups) {
    for (auto& place : group) place = place_in_lent[place];
  }
  overlapping_ = std::move(groups);
  for (const auto& swapped : swapped_) swapped.tensor.set_data(swapped.copy);
  for (const auto& tensor : fixed_) tensor.set_requires_grad(false);
}

void SwappedWeights::give_back(const Swap& swapped) noexcept {
  try {
    swapped.tensor.set_data(swapped.own);
    if (swapped.is_leaf && !swapped.tensor.is_leaf()) swapped.tensor.detach_();  // a pass made it a result of something
    if (swapped.tensor.is_leaf() && swapped.tensor.requires_grad() != swapped.requires_grad) {
      swapped.tensor.set_requires_grad(swapped.requires_grad);
    }
    // What was written went to the copy: graphs of the user's that hold the tensor still can be gone through.
    detail::set_version(swapped.tensor, swapped.version);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the others still come back
  }
}

SwappedWeights::~SwappedWeights() {
  for (const auto& swapped : swapped_) give_back(swapped);
  for (const auto& parameter : fixed_) {
    try {
      parameter.set_requires_grad(true);
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): the others still come back
    }
  }
}

std::vector<at::Tensor> SwappedWeights::written() const {
  std::vector<at::Tensor> written;
  for (std::size_t i = 0; i < swapped_.size(); ++i) {
    const Swap& swapped = swapped_[i];
    const bool is_told = detail::version_of(swapped.tensor) != swapped.version;
    if (is_told || (i >= adapted_.size() && swapped.is_writable && !at::equal(swapped.own, swapped.copy))) {
      written.push_back(swapped.tensor);
    }
  }
  return written;
}

void SwappedWeights::set_constants(const std::vector<at::Tensor>& values) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < adapted_.size(); ++i) {
    const at::Tensor value = values[i].to(values_[i].scalar_type());
    adapted_[i].set_requires_grad(false);
    adapted_[i].set_data(value.detach().clone());  // a model may write there, and the values are somebody's
  }
  for (const auto& group : overlapping_) {
    std::vector<at::Tensor> copies;
    copies.reserve(group.size());
    for (const std::size_t place : group) copies.push_back(swapped_[place].copy);
    copies = detail::copies_of_group(copies);
    for (std::size_t i = 0; i < group.size(); ++i) {
      if (group[i] < adapted_.size()) copies[i].copy_(values[group[i]]);
      swapped_[group[i]].tensor.set_data(copies[i]);
    }
  }
}

void SwappedWeights::clear_constants() {
  for (const auto& group : overlapping_) {
    for (const std::size_t place : group) swapped_[place].tensor.set_data(swapped_[place].copy);
  }
  for (std::size_t i = 0; i < adapted_.size(); ++i) {
    adapted_[i].set_data(values_[i]);
    adapted_[i].set_requires_grad(true);
  }
}

void SwappedWeights::commit() {
  std::vector<at::Tensor> owns;
  owns.reserve(adapted_.size());
  for (std::size_t i = 0; i < adapted_.size(); ++i) owns.push_back(swapped_[i].own);
  detail::write_all(owns, values_);
  for (std::size_t i = 0; i < adapted_.size(); ++i) ++swapped_[i].version;
}

}  // namespace it3
