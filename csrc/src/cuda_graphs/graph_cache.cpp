#include "cuda_graphs/graph_cache.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <it3/backend/graphs.h>
#include <it3/backend/interrupts.h>

#include "network/map_inputs.h"
#include "support/error_text.h"

namespace it3 {
namespace detail {
namespace {

LoopOutcome copy_of(const LoopOutcome& outcome) {
  LoopOutcome copy;
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

LoopOutcome GraphCache::run(const GraphKey& key, const Inputs& inputs, const Work& work) {
  std::unique_lock lock(mutex_);
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    entries_.emplace_front(key);
    if (entries_.size() > most) {
      for (const auto& [device, last_replayed] : last_replayed_) last_replayed.synchronize();
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
        std::make_unique<DeviceGraph>(tensors_in(inputs).front().device(), [&] { entry.outcome = work(entry.inputs); });
  } catch (const std::exception& error) {  // of torch's, or of its interpreter's
    entry = Entry(entry.key);
    rethrow_interrupt(error);
    entry.has_failed = true;
    TORCH_WARN(
        "adaptation cannot be recorded as a CUDA graph, so it runs without one, which is slower: ", text_of(error),
        ". cuda_graphs='off' avoids this warning");
  }
}

LoopOutcome GraphCache::replay(Entry& entry, const Inputs& inputs) {
  const std::vector<at::Tensor> from = tensors_in(inputs), to = tensors_in(entry.inputs);
  const c10::Stream stream = current_stream(to.front().device());
  // An event belongs to the device that it is recorded on.
  c10::Event& last_replayed = last_replayed_.try_emplace(stream.device_index(), stream.device_type()).first->second;
  last_replayed.block(stream);
  {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  entry.graph->replay();
  LoopOutcome outcome = copy_of(entry.outcome);
  last_replayed.record(stream);
  return outcome;
}

}  // namespace detail

Graphs::Graphs() : cache_(std::make_unique<detail::GraphCache>()) {}
Graphs::~Graphs() = default;
Graphs::Graphs(Graphs&&) noexcept = default;
Graphs& Graphs::operator=(Graphs&&) noexcept = default;

std::string Graphs::why_not(
    const Network& network, const Method& method, const Options& options, const Inputs& inputs) {
  const auto key =
      detail::graph_key(network, method, options, inputs, /*with_details=*/false, /*samples=*/std::nullopt);
  const auto* const why = std::get_if<std::string>(&key);
  return why != nullptr ? *why : "";
}

}  // namespace it3
