#include "torchscript/script_working_copy.h"

#include <algorithm>
#include <map>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "network/map_inputs.h"
#include "support/shared_memory.h"
#include "support/tensor_identity.h"
#include "support/tensor_memory.h"
#include "support/vmap.h"
#include "support/write_all.h"
#include "torchscript/script_comparison.h"
#include "torchscript/script_passes.h"

namespace it3::detail {
namespace {

/// Convolutions of oneDNN and cuDNN need not reorder what comes in channels_last.
bool is_in_channels_last_faster(const at::Tensor& weight) {
  return weight.dim() == 4 && (weight.is_cpu() || weight.is_cuda()) && weight.is_contiguous();
}

/// Copies tensors with few kernels on a GPU, where one of another layout would make it one for each.
void copy_each(const std::vector<at::Tensor>& to, const std::vector<at::Tensor>& from) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> to_alike, from_alike;
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (to[i].strides() == from[i].strides()) {
      to_alike.push_back(to[i]);
      from_alike.push_back(from[i]);
    } else {
      to[i].copy_(from[i]);
    }
  }
  if (!to_alike.empty()) at::_foreach_copy_(to_alike, from_alike);
}

/// A cut's passes on each sample by itself. All tensors of inputs and results are stacked.
class PerSamplePasses : public TwoPass {
 public:
  /// @param is_stacked  which of the lifted tensors are
  PerSamplePasses(
      const torch::jit::Module& module,
      std::shared_ptr<const ScriptCut> cut,
      std::vector<at::Tensor> lifted,
      std::vector<bool> is_stacked,
      std::int64_t samples)
      : module_(module),
        cut_(std::move(cut)),
        lifted_(std::move(lifted)),
        is_stacked_(std::move(is_stacked)),
        samples_(samples) {}

  FirstPass prepare(const Inputs& inputs) override {
    const Vmap vmap(samples_);
    return unwrap(passes().prepare(map_tensors(inputs, Vmap::wrap)));
  }

  FirstPass predict(const Inputs& inputs, const Inject* inject) override {
    const Vmap vmap(samples_);
    return unwrap(passes().predict(map_tensors(inputs, Vmap::wrap), inject));
  }

  at::Tensor resume(const Inputs& /*inputs*/, const FirstPass& first, const Inject* inject) override {
    const Vmap vmap(samples_);
    return Vmap::unwrap(passes().resume(Inputs(), {{}, map_tensors(first.carried, Vmap::wrap)}, inject));
  }

 private:
  ScriptPasses passes() const {
    std::vector<at::Tensor> lifted = lifted_;
    for (std::size_t i = 0; i < lifted.size(); ++i) {
      if (is_stacked_[i]) lifted[i] = Vmap::wrap(lifted[i]);
    }
    return ScriptPasses(module_, cut_, std::move(lifted), /*has_other_layout=*/false);
  }

  static FirstPass unwrap(const FirstPass& first) {
    const bool has_prediction = first.prediction.defined();
    return {has_prediction ? Vmap::unwrap(first.prediction) : at::Tensor(), map_tensors(first.carried, Vmap::unwrap)};
  }

  const torch::jit::Module& module_;
  std::shared_ptr<const ScriptCut> cut_;
  std::vector<at::Tensor> lifted_;
  std::vector<bool> is_stacked_;
  std::int64_t samples_;
};

}  // namespace

ScriptWorkingCopy::ScriptWorkingCopy(
    const torch::jit::Module& module,
    std::shared_ptr<const ScriptCut> cut,
    const std::vector<NamedParameter>& adapted,
    std::optional<std::int64_t> samples,
    bool is_for_comparison)
    : module_(module),
      cut_(std::move(cut)),
      samples_(samples),
      is_for_comparison_(is_for_comparison),
      is_compared_(is_for_comparison),
      own_lifted_(lifted_tensors(*cut_, /*writable=*/true)),
      own_(tensors_of(adapted)) {
  find_places(adapted);
  find_followers(adapted);
  std::vector<at::Tensor> owns;
  if (!samples_) values_ = copies_side_by_side(own_);
  values_.resize(own_.size());
  for (std::size_t i = 0; i < own_.size(); ++i) {
    if (!values_[i].defined()) values_[i] = value_for(i);
    owns.push_back(samples_ ? own_[i].detach().expand(values_[i].sizes()) : own_[i].detach());
    leaves_.push_back(values_[i].detach().requires_grad_());
  }
  copy_each(values_, owns);
  passes_ = passes_with(leaves_);
}

void ScriptWorkingCopy::find_places(const std::vector<NamedParameter>& adapted) {
  std::map<TensorIdentity, std::vector<std::size_t>> places;
  for (std::size_t i = 0; i < own_lifted_.size(); ++i) places[identity_of(own_lifted_[i])].push_back(i);
  for (const auto& parameter : adapted) places_.push_back(places[identity_of(parameter.tensor)]);
}

void ScriptWorkingCopy::find_followers(const std::vector<NamedParameter>& adapted) {
  is_followed_.assign(adapted.size(), false);
  std::vector<std::pair<const void*, std::size_t>> by_storage;
  for (std::size_t i = 0; i < adapted.size(); ++i) {
    if (const void* const storage = span_of(own_[i]).storage; storage != nullptr) by_storage.emplace_back(storage, i);
  }
  std::sort(by_storage.begin(), by_storage.end());
  for (auto one = by_storage.begin(); one != by_storage.end(); ++one) {
    for (auto next = one + 1; next != by_storage.end() && next->first == one->first; ++next) {
      const std::size_t i = one->second, other = next->second;
      TORCH_CHECK_VALUE(
          !share_memory(own_[i], own_[other]), "the parameters '", adapted[i].name, "' and '", adapted[other].name,
          "' share memory, so a step on one changes the other. Leave one of them out with the option 'parameters', or "
          "use one and the same parameter for both");
    }
  }
  std::vector<bool> is_adapted(own_lifted_.size(), false);
  for (const auto& places : places_) {
    for (const std::size_t place : places) is_adapted[place] = true;
  }
  for (std::size_t place = 0; place < own_lifted_.size(); ++place) {
    if (is_adapted[place]) continue;
    const void* const storage = span_of(own_lifted_[place]).storage;
    auto found = std::lower_bound(by_storage.begin(), by_storage.end(), std::pair(storage, std::size_t{0}));
    for (; storage != nullptr && found != by_storage.end() && found->first == storage; ++found) {
      const std::size_t i = found->second;
      if (!share_memory(own_lifted_[place], own_[i])) continue;
      const bool is_within = same_place_in(own_[i].detach(), own_[i].detach(), own_lifted_[place], {}).defined();
      TORCH_CHECK_VALUE(
          is_within, "'", cut_->lifted[place].name, "' shares memory with the parameter '", adapted[i].name,
          "' but is not a plain view of it, so it could not be updated when the parameter adapts. Leave the parameter "
          "out with the option 'parameters', or replace '",
          cut_->lifted[place].name, "' by a clone");
      followers_.push_back({place, i});
      is_followed_[i] = true;
    }
  }
}

/// Memory for an adapted parameter's value, which is copied into it later.
at::Tensor ScriptWorkingCopy::value_for(std::size_t parameter) {
  const at::Tensor own = own_[parameter].detach();
  const auto& places = places_[parameter];
  const bool is_convolution_weight = !places.empty() && std::all_of(places.begin(), places.end(), [&](auto place) {
    return cut_->lifted[place].is_convolution_weight;
  });
  if (samples_) {
    std::vector<std::int64_t> sizes = own.sizes().vec();
    sizes.insert(sizes.begin(), *samples_);
    if (is_followed_[parameter]) {  // whoever follows needs the same strides
      std::vector<std::int64_t> strides = own.strides().vec();
      strides.insert(strides.begin(), own.numel());
      return at::empty_strided(sizes, strides, own.options());
    }
    return at::empty(sizes, own.options());
  }
  const bool is_faster =
      is_in_channels_last_faster(own) && is_convolution_weight && !is_followed_[parameter] && !is_for_comparison_;
  has_other_layout_ |= is_faster;
  return at::empty_like(own, is_faster ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve);
}

void ScriptWorkingCopy::compare(const Inputs& inputs) {
  if (is_compared_) return;
  compare_once(module_, cut_, inputs, samples_.has_value());
  is_compared_ = true;
}

FirstPass ScriptWorkingCopy::prepare(const Inputs& inputs) {
  compare(inputs);
  return passes_->prepare(inputs);
}

FirstPass ScriptWorkingCopy::predict(const Inputs& inputs, const Inject* inject) {
  compare(inputs);
  return passes_->predict(inputs, inject);
}

bool ScriptWorkingCopy::has_fixed_head() const {
  const auto is_in_tail = [&](std::size_t place) { return !cut_->lifted[place].is_in_head; };
  return cut_->why_head_may_differ.empty() &&
         std::all_of(
             places_.begin(), places_.end(),
             [&](const auto& places) { return std::all_of(places.begin(), places.end(), is_in_tail); }) &&
         std::all_of(followers_.begin(), followers_.end(), [&](const Follower& follower) {
           return is_in_tail(follower.place);
         });
}

std::unique_ptr<TwoPass> ScriptWorkingCopy::with_constants(const std::vector<at::Tensor>& values) {
  std::vector<at::Tensor> constants;
  constants.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    at::Tensor constant = values[i].detach().to(values_[i].scalar_type());
    if (is_followed_[i] && constant.strides() != values_[i].strides()) {
      constant = at::empty_strided(values_[i].sizes(), values_[i].strides(), values_[i].options()).copy_(constant);
    }
    constants.push_back(std::move(constant));
  }
  return passes_with(std::move(constants));
}

void ScriptWorkingCopy::commit() {
  TORCH_INTERNAL_ASSERT(!samples_);
  write_all(own_, values_);
}

std::unique_ptr<TwoPass> ScriptWorkingCopy::passes_with(std::vector<at::Tensor> weights) const {
  // What is written to in a pass is the passes' own; adapted values are, and constant ones become so here.
  if (!weights.empty() && !weights[0].requires_grad()) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto& places = places_[i];
      const bool is_written = is_followed_[i] || std::any_of(places.begin(), places.end(), [&](std::size_t place) {
                                return cut_->lifted[place].is_written;
                              });
      if (is_written) weights[i] = weights[i].clone();
    }
  }
  std::vector<at::Tensor> lifted;
  lifted.reserve(own_lifted_.size());
  for (const at::Tensor& t : own_lifted_) lifted.push_back(t.detach());
  copy_written(*cut_, lifted);
  std::vector<bool> is_stacked(lifted.size(), false);
  for (const auto& [place, i] : followers_) {
    lifted[place] = same_place_in(weights[i], own_[i].detach(), own_lifted_[place], samples_);
    is_stacked[place] = samples_.has_value();
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    for (const std::size_t place : places_[i]) {
      lifted[place] = weights[i];
      is_stacked[place] = true;
    }
  }
  if (!samples_) return std::make_unique<ScriptPasses>(module_, cut_, std::move(lifted), has_other_layout_);
  return std::make_unique<PerSamplePasses>(module_, cut_, std::move(lifted), std::move(is_stacked), *samples_);
}

}  // namespace it3::detail
