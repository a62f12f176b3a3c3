#include "script_working_copy.h"

#include <algorithm>
#include <map>
#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "map_tensors.h"
#include "script_passes.h"
#include "tensor_identity.h"
#include "vmap.h"

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
class PassesOfEach : public TwoPass {
 public:
  /// @param is_stacked  which of the lifted tensors are
  PassesOfEach(
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
    std::optional<std::int64_t> samples)
    : module_(module), cut_(std::move(cut)), samples_(samples), lifted_(lifted_tensors(*cut_, /*writable=*/false)) {
  std::map<TensorIdentity, std::vector<std::size_t>> places;
  std::set<TensorIdentity> convolution_weights;
  for (std::size_t i = 0; i < lifted_.size(); ++i) {
    const auto identity = identity_of(lifted_[i]);
    places[identity].push_back(i);
    if (cut_->lifted[i].is_convolution_weight) convolution_weights.insert(identity);
    lifted_[i] = lifted_[i].detach();
  }
  std::vector<at::Tensor> owns;
  for (const auto& parameter : adapted) {
    own_.push_back(parameter.tensor);
    const auto identity = identity_of(parameter.tensor);
    places_.push_back(places[identity]);
    const at::Tensor own = parameter.tensor.detach();
    owns.push_back(own);
    if (samples_) {
      std::vector<std::int64_t> sizes = own.sizes().vec();
      sizes.insert(sizes.begin(), *samples_);
      values_.push_back(at::empty(sizes, own.options()));
      owns.back() = own.expand(sizes);
    } else {
      const bool is_faster = is_in_channels_last_faster(own) && convolution_weights.contains(identity);
      has_other_layout_ |= is_faster;
      values_.push_back(at::empty_like(own, is_faster ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve));
    }
    leaves_.push_back(values_.back().detach().requires_grad_());
  }
  copy_each(values_, owns);
  passes_ = passes_with(leaves_);
}

bool ScriptWorkingCopy::has_fixed_head() const {
  const auto is_in_tail = [&](std::size_t place) { return !cut_->lifted[place].is_in_head; };
  return cut_->is_head_fixed && std::all_of(places_.begin(), places_.end(), [&](const auto& places) {
           return std::all_of(places.begin(), places.end(), is_in_tail);
         });
}

std::unique_ptr<TwoPass> ScriptWorkingCopy::with_constants(const std::vector<at::Tensor>& values) {
  std::vector<at::Tensor> constants;
  constants.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    constants.push_back(values[i].detach().to(values_[i].scalar_type()));
  }
  return passes_with(constants);
}

void ScriptWorkingCopy::commit() {
  TORCH_INTERNAL_ASSERT(!samples_);
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < own_.size(); ++i) own_[i].detach().copy_(values_[i]);
}

std::unique_ptr<TwoPass> ScriptWorkingCopy::passes_with(const std::vector<at::Tensor>& weights) const {
  std::vector<at::Tensor> lifted = lifted_;
  std::vector<bool> is_stacked(lifted.size(), false);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    for (const std::size_t place : places_[i]) {
      lifted[place] = weights[i];
      is_stacked[place] = true;
    }
  }
  if (!samples_) return std::make_unique<ScriptPasses>(module_, cut_, std::move(lifted), has_other_layout_);
  return std::make_unique<PassesOfEach>(module_, cut_, std::move(lifted), std::move(is_stacked), *samples_);
}

}  // namespace it3::detail
