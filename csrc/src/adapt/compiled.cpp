#include <it3/backend/compiled.h>

#include <algorithm>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/util/Exception.h>

#include "support/tensor_memory.h"

namespace it3 {
namespace {

/// Each is tried once, which takes several times as long as a call.
constexpr std::size_t most_decided = 256;

bool are_same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) { return x.is_same(y); });
}

void append_kind(std::vector<std::int64_t>& kind, const at::Tensor& tensor) {
  kind.push_back(static_cast<std::int64_t>(tensor.scalar_type()));
  kind.push_back(tensor.is_cpu() ? -1 : tensor.device().index());
  kind.push_back(tensor.dim());
  kind.insert(kind.end(), tensor.sizes().begin(), tensor.sizes().end());
}

/// What of a call its evaluation by programs was tried for.
std::vector<std::int64_t> kind_of(const AdaptCall& call) {
  std::vector<std::int64_t> kind = {call.options.threshold ? 1 : 0, call.options.num_steps > 0 ? 1 : 0};
  for (const auto& input : call.inputs.args) append_kind(kind, input.toTensor());
  return kind;
}

}  // namespace

Options compiled_options(const Options& options) {
  Options which;
  which.parameters = options.parameters;
  which.anchor = options.anchor == AnchorKind::ema ? AnchorKind::frozen : options.anchor;
  which.norm_statistics = options.norm_statistics;
  which.norm_prior = options.norm_prior;
  which.per_sample = options.per_sample;
  which.amp = options.amp;
  return which;
}

void Compiled::For::check() const {
  for (std::size_t i = 0; i < adapted.size(); ++i) {
    const auto check = [&](const at::Tensor& other) {
      TORCH_CHECK_VALUE(
          !detail::share_memory(adapted[i].tensor, other), "the parameter '", adapted[i].name,
          "' shares memory with another tensor that the model or the embedder uses, so that a step on it changes that "
          "too, which compiled programs do not do; replace one of them by a clone");
    };
    for (std::size_t j = 0; j < i; ++j) check(adapted[j].tensor);
    for (const at::Tensor& constant : constants) check(constant);
  }
}

Compiled::Compiled(For what, Programs programs, bool is_measured, std::shared_ptr<const void> keeps)
    : keeps_(std::move(keeps)), for_(std::move(what)), programs_(std::move(programs)), is_measured_(is_measured) {
  for_.check();
}

std::string Compiled::why_not(const AdaptCall& call, const std::vector<NamedParameter>& adapted) const {
  if (call.network.id() != for_.network)
    return "the programs were compiled for another model, or another kind of inputs";
  if (compiled_options(call.options) != for_.options) {
    return "the programs were compiled with another value of parameters, anchor, norm_statistics, norm_prior, "
           "per_sample or amp";
  }
  if (!adapted.empty() && !are_same(tensors_of(adapted), tensors_of(for_.adapted))) {
    return "the programs were compiled for adapting other parameters";
  }
  const auto& reads = call.method.reads;
  if (reads.has_value() != for_.reads.has_value() || (reads && for_.reads && !are_same(*reads, *for_.reads))) {
    return "the programs were compiled for another embedder, or for other parameters of it";
  }
  if (have_functions_changed_) {
    return "embedder, combine_fn or distance_fn, or something that they read, has changed since it was compiled";
  }
  // Samples that adapt each by itself are stacked by now.
  if (!for_.options.per_sample && call.method.in_dims != for_.in_dims)
    return "the programs were compiled with another value of in_dims";
  const auto is_tensor_with_elements = [](const c10::IValue& input) {
    return input.isTensor() && input.toTensor().numel() > 0;
  };
  const auto& [args, kwargs] = call.inputs;
  if (!kwargs.empty() || !std::all_of(args.begin(), args.end(), is_tensor_with_elements)) return "the batch is empty";
  if (!call.options.amp && at::autocast::is_autocast_enabled(for_.adapted.at(0).tensor.device().type())) {
    return "autocast is on; use the option amp instead";
  }
  return "";
}

void Compiled::look_at_functions() const {
  if (for_.have_functions_changed) have_functions_changed_ = for_.have_functions_changed();
}

std::vector<std::int64_t> Compiled::memory() const {
  std::vector<std::int64_t> memory;
  const auto append = [&](const at::Tensor& tensor) {
    memory.push_back(reinterpret_cast<std::intptr_t>(tensor.const_data_ptr()));
    append_kind(memory, tensor);
  };
  for (const NamedParameter& parameter : for_.adapted) append(parameter.tensor);
  for (const at::Tensor& constant : for_.constants) append(constant);
  return memory;
}

Compiled::Verdict Compiled::verdict(const AdaptCall& call, const std::vector<NamedParameter>& adapted) const {
  Verdict verdict{why_not(call, adapted)};
  if (!verdict.why_not.empty()) return verdict;
  const std::vector<std::int64_t> now = memory(), kind = kind_of(call);
  {
    const std::scoped_lock lock(mutex_);
    verdict.is_same_memory = now == memory_;
    const auto known = decided_.find(kind);
    verdict.is_decided = known != decided_.end();
    if (verdict.is_decided) verdict.why_not = known->second;
    if (!verdict.is_decided && decided_.size() >= most_decided) {
      verdict.why_not = "the inputs have had too many different sizes to try the programs with all";
    }
  }
  if (verdict.is_same_memory || !verdict.why_not.empty()) return verdict;
  try {
    for_.check();
  } catch (const c10::ValueError& error) {
    verdict.why_not = error.what_without_backtrace();
  }
  return verdict;
}

void Compiled::decide(const AdaptCall& call, std::string why_not) const {
  const std::scoped_lock lock(mutex_);
  if (why_not.empty()) memory_ = memory();
  if (decided_.size() < most_decided) decided_[kind_of(call)] = std::move(why_not);
}

}  // namespace it3
