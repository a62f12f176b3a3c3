#include "graph_cache.h"

#include <algorithm>
#include <sstream>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <it3/graphs.h>

#include "map_tensors.h"

namespace it3 {
namespace detail {
namespace {

std::vector<at::Tensor> tensors_of(const Inputs& inputs) {
  std::vector<at::Tensor> tensors;
  map_tensors(inputs, [&](const at::Tensor& t) {
    tensors.push_back(t);
    return t;
  });
  return tensors;
}

/// A text that is the same for the same things. Numbers are written as they lie in memory.
class Key {
 public:
  template <typename Number>
  Key& add(Number number) {
    text_.append(reinterpret_cast<const char*>(&number), sizeof(number));
    return *this;
  }
  Key& add(const std::string& text) {
    add(text.size());
    text_ += text;
    return *this;
  }
  /// What a tensor looks like, without where it lies.
  Key& add_kind(const at::Tensor& t) {
    add(t.scalar_type()).add(t.device().type()).add(t.device().index()).add(t.requires_grad()).add(t.dim());
    for (const auto size : t.sizes()) add(size);
    for (const auto stride : t.strides()) add(stride);
    return *this;
  }
  Key& add_place(const at::Tensor& t) { return add_kind(t).add(t.const_data_ptr()); }

  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

/// What torch does with the same operations.
void add_context(Key& key) {
  const auto& context = at::globalContext();
  key.add(context.deterministicAlgorithms()).add(context.deterministicCuDNN()).add(context.benchmarkCuDNN());
  key.add(context.userEnabledCuDNN());
  for (const auto op : {at::Float32Op::CONV, at::Float32Op::MATMUL}) {
    key.add(context.float32Precision(at::Float32Backend::CUDA, op));
  }
  key.add(at::autocast::is_autocast_enabled(at::kCUDA)).add(at::autocast::get_autocast_dtype(at::kCUDA));
}

void add_options(Key& key, const Options& options) {
  std::ostringstream text;
  text.precision(17);
  for (const auto& [name, value] : options.values()) {
    text << name << '=';
    std::visit(
        [&](const auto& v) {
          using Value = std::decay_t<decltype(v)>;
          if constexpr (std::is_same_v<Value, std::vector<double>> || std::is_same_v<Value, std::vector<std::string>>) {
            for (const auto& item : v) text << item << ',';
          } else if constexpr (!std::is_same_v<Value, std::monostate>) {
            text << v;
          }
        },
        value);
    text << ';';
  }
  key.add(text.str());
}

Outcome copy_of(const Outcome& outcome) {
  Outcome copy;
  const auto clone = [](const at::Tensor& t) { return t.defined() ? t.clone() : t; };
  copy.result.prediction = clone(outcome.result.prediction);
  const bool is_first = outcome.result.first.is_same(outcome.result.prediction);
  copy.result.first = is_first ? copy.result.prediction : clone(outcome.result.first);
  copy.result.second = clone(outcome.result.second);
  copy.result.losses = clone(outcome.result.losses);
  copy.report = outcome.report.to(at::kCPU);
  for (const auto& [name, value] : outcome.result.weights) copy.result.weights.emplace_back(name, clone(value));
  return copy;
}

c10::Stream current_stream(at::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device); }

}  // namespace

Outcome GraphCache::run(const std::string& key, const Inputs& inputs, const Work& work) {
  std::unique_lock lock(mutex_);
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    entries_.emplace_front(key);
    if (entries_.size() > most) {
      if (last_replayed_) last_replayed_->synchronize();
      entries_.pop_back();
    }
    lock.unlock();
    return work(inputs);
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  if (entry.graph == nullptr && !entry.has_failed) record(entry, inputs, work);
  if (!entry.has_failed) return replay(entry, inputs);
  lock.unlock();
  return work(inputs);
}

void GraphCache::record(Entry& entry, const Inputs& inputs, const Work& work) {
  try {
    entry.inputs = map_tensors(inputs, [](const at::Tensor& t) { return t.detach().clone(); });
    entry.graph =
        std::make_unique<DeviceGraph>(tensors_of(inputs).front().device(), [&] { entry.outcome = work(entry.inputs); });
  } catch (const std::exception& error) {  // of torch's, or of its interpreter's
    entry = Entry(entry.key);
    entry.has_failed = true;
    TORCH_WARN(
        "adaptation could not be recorded as a CUDA graph and runs without; cuda_graphs='off' silences this: ",
        error.what());
  }
}

Outcome GraphCache::replay(Entry& entry, const Inputs& inputs) {
  const std::vector<at::Tensor> from = tensors_of(inputs), to = tensors_of(entry.inputs);
  const c10::Stream stream = current_stream(to.front().device());
  if (!last_replayed_) last_replayed_.emplace(stream.device_type());
  last_replayed_->block(stream);
  {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  entry.graph->replay();
  Outcome outcome = copy_of(entry.outcome);
  last_replayed_->record(stream);
  return outcome;
}

std::string graph_key(
    const Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    bool in_full,
    std::optional<std::int64_t> samples) {
  Key key;
  add_options(key, options);
  add_context(key);
  key.add(in_full).add(samples.value_or(-1));
  if (const auto dependencies = network.dependencies(options.normalisation)) {
    key.add(dependencies->program);
    for (const at::Tensor& t : dependencies->tensors) key.add_place(t);
  }
  if (method.reads) {
    for (const at::Tensor& t : *method.reads) key.add_place(t);
  }
  map_tensors(inputs, [&](const at::Tensor& t) {
    key.add_kind(t);
    return t;
  });
  // The rest of the inputs, tensors left out.
  std::ostringstream others;
  const Inputs without = map_tensors(inputs, [](const at::Tensor&) { return at::Tensor(); });
  for (const auto& value : without.args) others << value << ',';
  for (const auto& [name, value] : without.kwargs) others << name << '=' << value << ',';
  key.add(others.str());
  return key.take();
}

}  // namespace detail

Graphs::Graphs() : cache_(std::make_unique<detail::GraphCache>()) {}
Graphs::~Graphs() = default;
Graphs::Graphs(Graphs&&) noexcept = default;
Graphs& Graphs::operator=(Graphs&&) noexcept = default;

std::string Graphs::why_not(
    const Network& network, const Method& method, const Options& options, const Inputs& inputs) {
  const std::vector<at::Tensor> tensors = detail::tensors_of(inputs);
  const auto dependencies = network.dependencies(options.normalisation);
  const auto is_on_device = [&](const at::Tensor& t) { return t.device() == tensors.front().device(); };
  const auto are_all_there = [&](const auto& list) { return std::all_of(list.begin(), list.end(), is_on_device); };
  if (tensors.empty() || !tensors.front().is_cuda()) return "it does not run on a CUDA device";
  if (!detail::DeviceGraph::is_available()) return "this it3 was built without CUDA";
  if (!options.cuda_graphs) return "cuda_graphs is 'off'";
  if (!options.copy_model) return "copy_model is False, so that each call starts from other weights";
  if (options.tolerance || options.threshold) return "tolerance and threshold make it depend on values";
  if (method.neutral.defined()) return "there is a neutral signal";
  if (!dependencies) return "the model runs whole, in Python or as a torch::nn module";
  if (!method.reads) return "embeder, combine_fn or distance_fn is a function that may do more than compute";
  if (!are_all_there(tensors) || !are_all_there(dependencies->tensors) || !are_all_there(*method.reads)) {
    return "not all tensors are on one device";
  }
  return "";
}

}  // namespace it3
