#include "cuda_graphs/graph_key.h"

#include <algorithm>
#include <sstream>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include "cuda_graphs/device_graph.h"
#include "support/map_tensors.h"

namespace it3::detail {
namespace {

std::vector<std::int64_t> context_now() {
  const auto& context = at::globalContext();
  const auto number = [](auto value) { return static_cast<std::int64_t>(value); };
  std::vector<std::int64_t> facts = {
      number(context.deterministicAlgorithms()),
      number(context.deterministicCuDNN()),
      number(context.benchmarkCuDNN()),
      number(context.userEnabledCuDNN()),
      number(at::autocast::is_autocast_enabled(at::kCUDA)),
      number(at::autocast::get_autocast_dtype(at::kCUDA))};
  for (const auto op : {at::Float32Op::CONV, at::Float32Op::MATMUL}) {
    facts.push_back(number(context.float32Precision(at::Float32Backend::CUDA, op)));
  }
  return facts;
}

/// What a tensor looks like, without where it lies.
void add_kind(std::vector<std::int64_t>& facts, const at::Tensor& t) {
  facts.push_back(static_cast<std::int64_t>(t.scalar_type()));
  facts.push_back(t.device().index());
  facts.push_back(t.requires_grad() ? 1 : 0);
  facts.push_back(t.dim());
  facts.insert(facts.end(), t.sizes().begin(), t.sizes().end());
  facts.insert(facts.end(), t.strides().begin(), t.strides().end());
}

void add_place(std::vector<std::int64_t>& facts, const at::Tensor& t) {
  add_kind(facts, t);
  facts.push_back(static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(t.const_data_ptr())));
}

/// The tensors in inputs, and a text of everything else in them, which has their places too.
std::pair<std::vector<at::Tensor>, std::string> take_apart(const Inputs& inputs) {
  std::vector<at::Tensor> tensors;
  std::ostringstream others;
  const auto take = [&](const c10::IValue& value) {
    value.repr(others, [&](std::ostream& out, const c10::IValue& part) {
      if (!part.isTensor()) return false;
      if (part.toTensor().defined()) tensors.push_back(part.toTensor());
      out << (part.toTensor().defined() ? "tensor" : "undefined");
      return true;
    });
    others << ',';
  };
  for (const auto& value : inputs.args) take(value);
  for (const auto& [name, value] : inputs.kwargs) {
    others << name << '=';
    take(value);
  }
  return {std::move(tensors), others.str()};
}

}  // namespace

std::variant<std::string, GraphKey> graph_key(
    const Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    bool with_details,
    std::optional<std::int64_t> samples) {
  std::vector<at::Tensor> tensors;
  std::string others;
  try {
    std::tie(tensors, others) = take_apart(inputs);
  } catch (const c10::Error&) {
    return "the inputs hold other things than tensors, numbers, strings and lists, tuples and dictionaries of them";
  }
  if (tensors.empty() || !tensors.front().is_cuda()) return "it does not run on a CUDA device";
  if (!DeviceGraph::is_available()) return "this it3 was built without CUDA";
  if (!options.cuda_graphs) return "cuda_graphs is 'off'";
  if (!options.copy_model) return "copy_model is False, so each call starts from different weights";
  if (options.tolerance || options.threshold)
    return "tolerance or threshold is set, so what is computed depends on the data";
  if (is_given(method.neutral)) return "neutral is set";
  const auto dependencies = network.dependencies(options.normalization());
  if (!dependencies) return "the model is not cut at the layer (it runs in Python, or is a torch::nn module)";
  if (dependencies->writes_inputs) return "the model writes to its inputs";
  if (!method.reads) {
    return "embedder, combine_fn or distance_fn is a function that may have side effects; the defaults, distances by "
           "name and TorchScript have none";
  }
  const auto are_all_there = [device = tensors.front().device()](const auto& list) {
    return std::all_of(list.begin(), list.end(), [&](const at::Tensor& t) { return t.device() == device; });
  };
  if (!are_all_there(tensors) || !are_all_there(dependencies->tensors) || !are_all_there(*method.reads)) {
    return "not all tensors are on one device";
  }
  GraphKey key{
      options,
      with_details,
      samples,
      context_now(),
      dependencies->program,
      {},
      std::move(others),
      method.distance.name,
      method.prediction_layout,
      method.feeds_probabilities};
  for (const at::Tensor& t : tensors) add_kind(key.tensors, t);
  for (const at::Tensor& t : dependencies->tensors) add_place(key.tensors, t);
  for (const at::Tensor& t : *method.reads) add_place(key.tensors, t);
  return key;
}

}  // namespace it3::detail
