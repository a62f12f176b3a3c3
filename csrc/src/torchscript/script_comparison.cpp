#include "torchscript/script_comparison.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <c10/util/hash.h>
#include <torch/csrc/autograd/autograd.h>

#include <it3/backend/interrupts.h>

#include "network/map_inputs.h"
#include "support/as_real.h"
#include "support/error_text.h"
#include "support/full_float32.h"
#include "torchscript/run_code.h"
#include "torchscript/script_module_copy.h"
#include "torchscript/script_passes.h"
#include "torchscript/script_working_copy.h"

namespace it3::detail {
namespace {

/// No mixed precision, whose rounding would hide differences.
class WithoutAutocast {
 public:
  WithoutAutocast() {
    for (const auto device : {at::kCPU, at::kCUDA}) {
      was_on_.push_back(at::autocast::is_autocast_enabled(device));
      at::autocast::set_autocast_enabled(device, false);
    }
  }
  ~WithoutAutocast() {
    at::autocast::set_autocast_enabled(at::kCPU, was_on_[0]);
    at::autocast::set_autocast_enabled(at::kCUDA, was_on_[1]);
  }
  WithoutAutocast(const WithoutAutocast&) = delete;
  WithoutAutocast& operator=(const WithoutAutocast&) = delete;

 private:
  std::vector<bool> was_on_;
};

/// What tells calls apart that may take other ways through the graph, but not the sizes of tensors.
std::uint64_t kind_of(const c10::IValue& value, std::uint64_t kind) {
  const auto add = [&](std::uint64_t fact) { kind = c10::hash_combine(kind, fact); };
  add(value.isTensor() ? 1 : value.isNone() ? 2 : value.isTuple() ? 3 : value.isList() ? 4 : 5);
  if (value.isTensor()) {
    const at::Tensor& t = value.toTensor();
    if (t.defined()) add(static_cast<std::uint64_t>(t.dim() * 256 + static_cast<std::int64_t>(t.scalar_type())));
  } else if (value.isBool()) {
    add(value.toBool() ? 1 : 0);
  } else if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) kind = kind_of(element, kind);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) kind = kind_of(element, kind);
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) {
      if (item.key().isString()) add(std::hash<std::string>()(item.key().toStringRef()));
      kind = kind_of(item.value(), kind);
    }
  }
  return kind;
}

std::uint64_t kind_of(const Inputs& inputs) {
  std::uint64_t kind = inputs.args.size();
  for (const auto& value : inputs.args) kind = kind_of(value, kind);
  for (const auto& [name, value] : inputs.kwargs) {
    kind = kind_of(value, c10::hash_combine(kind, std::hash<std::string>()(name)));
  }
  return kind;
}

struct PassOutputs {
  at::Tensor prediction;
  std::vector<at::Tensor> gradients;
};

at::Tensor weighted_sum(const at::Tensor& prediction) {
  const at::Tensor flat = as_real(prediction).flatten();
  return (flat * at::arange(flat.numel(), flat.options().requires_grad(false)).cos()).sum();
}

std::vector<at::Tensor> gradients_by(const at::Tensor& prediction, const std::vector<at::Tensor>& tensors) {
  const bool has_graph = prediction.requires_grad() && prediction.numel() > 0 && !tensors.empty();
  if (!has_graph) return std::vector<at::Tensor>(tensors.size());
  return torch::autograd::grad({weighted_sum(prediction)}, tensors, {}, std::nullopt, false, /*allow_unused=*/true);
}

/// The parameters that a cut reads, but for those over another one's memory.
std::vector<NamedParameter> parameters_of(const ScriptCut& cut) {
  std::vector<NamedParameter> parameters;
  for (const auto& lifted : cut.lifted) {
    const at::Tensor t = lifted.get();
    if (!t.requires_grad() || !t.is_leaf()) continue;
    const bool is_known = std::any_of(parameters.begin(), parameters.end(), [&](const NamedParameter& known) {
      return known.tensor.is_same(t) || share_memory(known.tensor, t);
    });
    if (!is_known) parameters.push_back({lifted.name, t});
  }
  return parameters;
}

/// The same values in memory of their own.
Inputs own_copy(const Inputs& inputs) {
  std::vector<at::Tensor> tensors;
  map_tensors(inputs, [&](const at::Tensor& t) {
    tensors.push_back(t);
    return t;
  });
  const at::NoGradGuard no_grad;
  return map_tensors(inputs, MemoryCopies(tensors));
}

/// By the plain interpreter, on a copy of the module.
PassOutputs outputs_of_whole(
    const torch::jit::Module& module,
    const ScriptCut& cut,
    const Inputs& inputs,
    const std::vector<NamedParameter>& parameters) {
  const ScriptModuleCopy copy(module);
  torch::jit::Stack stack = script_arguments_of(module, inputs);
  stack.insert(stack.begin(), copy.module._ivalue());
  run_code(cut.whole, stack);
  PassOutputs outputs{tensor_at(stack.at(0), cut.place.output), {}};
  std::vector<at::Tensor> own;
  own.reserve(parameters.size());
  for (const auto& parameter : parameters) own.push_back(copy.copies(parameter.tensor));
  outputs.gradients = gradients_by(outputs.prediction, own);
  return outputs;
}

/// Far from rounding, and far from what dropped gradients or another precision make.
double tolerance_for(at::ScalarType type, bool is_cuda) {
  switch (c10::toRealValueType(type)) {
    case at::kDouble: return 1e-8;
    case at::kFloat: return is_cuda ? 1e-2 : 1e-4;  // cuDNN has algorithms that round more
    default: return 3e-2;
  }
}

/// The loosest of all tensors that take part: what is computed in half precision can come out in float32.
double tolerance_for(const std::vector<at::Tensor>& tensors) {
  double tolerance = 0;
  for (const at::Tensor& t : tensors) {
    if (t.is_floating_point() || t.is_complex()) {
      tolerance = std::max(tolerance, tolerance_for(t.scalar_type(), t.is_cuda()));
    }
  }
  return tolerance;
}

at::Tensor plain(const at::Tensor& t) {
  const at::Tensor real = as_real(t.detach());
  return real.to(at::kDouble);
}

double norm_of(const at::Tensor& t) { return at::nan_to_num(t, 0, 0, 0).norm().item<double>(); }

/// The Euclidean distance of the finite values over the norm of them, or over `least`; infinite if others are not
/// finite in the one than in the other.
double difference(const at::Tensor& actual, const at::Tensor& expected, double least) {
  if (actual.sizes() != expected.sizes() || actual.scalar_type() != expected.scalar_type()) return INFINITY;
  const at::Tensor a = plain(actual), b = plain(expected);
  const at::Tensor is_finite = at::isfinite(b);
  if (!at::equal(at::isfinite(a), is_finite)) return INFINITY;
  const double distance = norm_of(at::where(is_finite, a - b, 0));
  return distance == 0 ? 0 : distance / std::max(norm_of(b), least);
}

/// How outputs differ from those that are right; empty if they do not.
std::string how_other(
    const PassOutputs& actual,
    const PassOutputs& expected,
    const std::vector<NamedParameter>& parameters,
    double tolerance) {
  if (const double off = difference(actual.prediction, expected.prediction, 0); off > tolerance) {
    return c10::str("the prediction has a relative error of ", off);
  }
  double all = 0;
  for (const at::Tensor& g : expected.gradients) all = g.defined() ? std::hypot(all, norm_of(plain(g))) : all;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor &a = actual.gradients[i], &b = expected.gradients[i];
    if (!a.defined() && !b.defined()) continue;
    // One may know that a gradient is zero where the other one computes it.
    const at::Tensor zero = at::zeros_like(a.defined() ? a : b);
    // What is small beside all others, as gradients that are zero but for rounding, may differ more.
    const double off = difference(a.defined() ? a : zero, b.defined() ? b : zero, 0.01 * all);
    if (off > tolerance) {
      return c10::str("the gradient of '", parameters[i].name, "' has a relative error of ", off);
    }
  }
  return "";
}

/// Raises c10::ValueError if no gradient comes from the prediction to the layer's output.
void check_dependence(const ScriptCut& cut, TwoPass& passes, const Inputs& inputs, const FirstPass& first) {
  at::Tensor features;
  const Inject inject([&](const at::Tensor& t) {
    features = t.detach().clone();
    if (features.is_floating_point() || features.is_complex()) features.requires_grad_();
    return features.requires_grad() ? features.view_as(features) : features;
  });
  const at::Tensor prediction = passes.resume(inputs, first, &inject);
  const bool can_tell = features.requires_grad() && features.numel() > 0 && prediction.numel() > 0 &&
                        (prediction.is_floating_point() || prediction.is_complex());
  if (!can_tell || gradients_by(prediction, {features})[0].defined()) return;
  refuse_cut(
      cut.place.layer, "no gradient flows from the prediction to the layer's output",
      "Name another layer, or say by layer_output which of its outputs is meant, or by output which of the model's is "
      "the prediction");
}

enum class Comparison { same, none, undecided };

/// None if there was nothing to compare, undecided if it says little.
Comparison compare(
    const torch::jit::Module& module,
    const std::shared_ptr<const ScriptCut>& cut,
    const Inputs& inputs,
    bool are_stacked) {
  const std::vector<NamedParameter> parameters = parameters_of(*cut);
  PassOutputs expected;
  try {
    expected = outputs_of_whole(module, *cut, own_copy(inputs), parameters);
  } catch (const c10::ValueError&) {
    throw;  // several outputs, of which none is named
  } catch (const std::exception& error) {
    rethrow_interrupt(error);
    return Comparison::none;  // the cut will raise it too
  }
  if (expected.prediction.numel() == 0) return Comparison::none;
  const auto alone = are_stacked ? std::optional<std::int64_t>(1) : std::nullopt;
  ScriptWorkingCopy copy(module, cut, parameters, alone, /*is_for_comparison=*/true);
  Inputs own = own_copy(inputs);
  if (are_stacked) own = map_tensors(own, [](const at::Tensor& t) { return t.unsqueeze(0); });
  const FirstPass first = copy.predict(own, nullptr);
  const auto one_of = [&](const at::Tensor& t) { return are_stacked && t.defined() ? t.select(0, 0) : t; };
  PassOutputs actual{one_of(first.prediction), gradients_by(first.prediction, copy.leaves())};
  for (at::Tensor& g : actual.gradients) g = one_of(g);
  std::vector<at::Tensor> all = tensors_of(parameters);
  all.push_back(expected.prediction);
  map_tensors(inputs, [&](const at::Tensor& t) {
    all.push_back(t);
    return t;
  });
  // The layers of each sample are computed in another way.
  const std::string how = how_other(actual, expected, parameters, tolerance_for(all) * (are_stacked ? 10 : 1));
  // Of stacked samples it is torch.vmap's fault, without which each can still adapt by itself.
  if (are_stacked && !how.empty()) throw std::runtime_error("vectorized by torch.vmap, " + how);
  TORCH_CHECK_VALUE(
      how.empty(), "the TorchScript module gives other results when cut at the layer '", cut->place.layer, "': ", how,
      ". Name another layer, or use the eager model in Python");
  if (!are_stacked) check_dependence(*cut, copy, own, first);
  return at::isnan(expected.prediction).any().item<bool>() ? Comparison::undecided : Comparison::same;
}

}  // namespace

void compare_once(
    const torch::jit::Module& module,
    const std::shared_ptr<const ScriptCut>& cut,
    const Inputs& given,
    bool are_stacked) {
  const std::uint64_t kind = kind_of(given);
  if (cut->draws_random_numbers || cut->compared->contain(kind)) return;
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  const WithoutAutocast no_autocast;
  const FullFloat32 full_precision;
  bool is_empty = false;
  Inputs inputs = map_tensors(without_inference_tensors(given), [&](const at::Tensor& t) {
    is_empty |= t.numel() == 0;
    return t.detach();
  });
  if (is_empty) return;
  if (are_stacked) inputs = map_tensors(inputs, [](const at::Tensor& t) { return t.select(0, 0); });
  try {
    const Comparison comparison = compare(module, cut, inputs, are_stacked);
    if (comparison != Comparison::none) cut->compared->add(kind, comparison == Comparison::same);
  } catch (const std::exception& error) {
    rethrow_interrupt(error);
    // All gradients at once may need more than the call itself.
    if (!is_out_of_memory(error)) throw;
  }
}

}  // namespace it3::detail
