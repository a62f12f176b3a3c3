#include "per_sample.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <it3/selection.h>

#include "adapt_once.h"
#include "error_text.h"
#include "map_tensors.h"
#include "objective.h"
#include "vmap.h"

namespace it3::detail {
namespace {

/// The inputs' first tensor tells the number of samples.
std::int64_t samples_of(const Inputs& inputs) {
  std::int64_t samples = -1;
  map_tensors(inputs, [&](const at::Tensor& t) {
    if (samples < 0 && t.dim() > 0) samples = t.size(0);
    return t;
  });
  TORCH_CHECK_VALUE(
      samples >= 0,
      "per_sample needs inputs that are or hold tensors whose first dimension is the samples; give them so, or one "
      "sample a call");
  return samples;
}

/// Some of the samples. A tensor whose first dimension is not the samples belongs to each of them.
Inputs slice(const Inputs& inputs, std::int64_t samples, std::int64_t begin, std::int64_t count) {
  return map_tensors(
      inputs, [&](const at::Tensor& t) { return t.dim() > 0 && t.size(0) == samples ? t.narrow(0, begin, count) : t; });
}

/// The same, stacked: batches of one sample each.
Inputs stack(const Inputs& inputs, std::int64_t samples, std::int64_t begin, std::int64_t count) {
  return map_tensors(inputs, [&](const at::Tensor& t) {
    if (t.dim() > 0 && t.size(0) == samples) return t.narrow(0, begin, count).unsqueeze(1);
    std::vector<std::int64_t> sizes = t.sizes().vec();
    sizes.insert(sizes.begin(), count);
    return t.expand(sizes);
  });
}

/// The method on stacked tensors. Embeddings and combinations are made inside of a network's passes, where features are
/// those of one sample.
Method stacked(const Method& method) {
  Method each = method;
  each.takes_any_layout = true;
  each.embed = [embed = method.embed](const at::Tensor& prediction, const at::Tensor& features) {
    return embed(Vmap::wrap(prediction), features);
  };
  each.distance.to_prediction = [distance = method.distance.to_prediction](
                                    const at::Tensor& second, const at::Tensor& reference) {
    const Vmap vmap(second.size(0));
    return Vmap::unwrap(as_scalar(distance(Vmap::wrap(second), Vmap::wrap(reference))));
  };
  return each;
}

/// Batches of one sample as one batch.
at::Tensor unstacked(const at::Tensor& t) { return t.defined() && t.dim() > 1 ? t.flatten(0, 1) : t; }

Adaptation unstacked(Adaptation a) {
  for (at::Tensor* const t : {&a.prediction, &a.first, &a.second}) *t = unstacked(*t);
  a.weights.clear();
  return a;
}

/// One adaptation as one sample of several.
Adaptation as_sample(Adaptation a) {
  for (at::Tensor* const t : {&a.prediction, &a.first, &a.second}) {
    if (t->defined() && t->dim() == 0) *t = t->unsqueeze(0);
  }
  a.losses = a.losses.unsqueeze(1);
  a.weights.clear();
  return a;
}

/// (steps, B), where samples have taken different numbers of steps: the last loss of each is repeated.
at::Tensor join_losses(const std::vector<Adaptation>& parts) {
  std::int64_t steps = 0;
  for (const auto& part : parts) steps = std::max(steps, part.steps());
  std::vector<at::Tensor> columns;
  for (const auto& part : parts) {
    const std::int64_t missing = steps - part.steps();
    const std::int64_t count = part.losses.dim() > 1 ? part.losses.size(1) : part.first.size(0);
    const at::Tensor losses = part.losses.reshape({part.steps(), count});
    const at::Tensor last = part.steps() == 0 ? losses.new_zeros({1, count}) : losses.slice(0, part.steps() - 1);
    columns.push_back(at::cat({losses, last.expand({missing, count})}));
  }
  return at::cat(columns, 1);
}

Adaptation join(std::vector<Adaptation> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  Adaptation all;
  for (const auto member :
       {&Adaptation::prediction, &Adaptation::first, &Adaptation::second, &Adaptation::adapted_samples}) {
    std::vector<at::Tensor> tensors;
    tensors.reserve(parts.size());
    for (const auto& part : parts) tensors.push_back(part.*member);
    if (tensors.front().defined()) all.*member = at::cat(tensors);
  }
  all.losses = join_losses(parts);
  return all;
}

/// TorchScript's interpreter makes other errors of what it catches, with the text in them.
bool is_out_of_memory(const std::exception& error) {
  return std::string_view(error.what()).find("out of memory") != std::string_view::npos;
}

/// What can be taken of the memory of a device, in bytes.
std::int64_t free_memory(c10::Device device) {
  if (device.type() != at::kCPU) {
    auto& allocator = *at::getDeviceAllocator(device.type());
    const auto stats = allocator.getDeviceStats(device.index());
    const std::int64_t cached = stats.reserved_bytes[0].current - stats.allocated_bytes[0].current;
    return cached + static_cast<std::int64_t>(allocator.getMemoryInfo(device.index()).first);
  }
  std::ifstream file("/proc/meminfo");
  for (std::string field; file >> field;) {
    std::int64_t kilobytes = 0;
    if (field == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
  }
  return 1073741824;
}

/// How many samples to adapt at once.
class ChunkSize {
 public:
  ChunkSize(const Options& options, const std::vector<NamedParameter>& adapted)
      : given_(options.chunk_size), device_(adapted.empty() ? c10::Device(at::kCPU) : adapted.front().tensor.device()) {
    // Values, gradients, two moments, and one more while they are computed. What the passes keep is unknown; on a GPU
    // a chunk that does not fit is tried again in halves.
    for (const auto& p : adapted) bytes_of_each_ += 5 * static_cast<std::int64_t>(p.tensor.nbytes());
  }

  std::int64_t next() const {
    if (given_) return *given_;
    // Larger chunks are no faster on a CPU, whose caches they leave.
    const std::int64_t most = device_.is_cpu() ? std::min<std::int64_t>(most_, 64) : most_;
    return std::clamp<std::int64_t>(free_memory(device_) / 2 / bytes_of_each_, 1, most);
  }

  /// A chunk did not fit. False if there is no smaller one.
  bool shrink(std::int64_t samples) {
    most_ = samples / 2;
    return most_ > 0 && !given_;
  }

 private:
  std::optional<std::int64_t> given_;
  c10::Device device_;
  std::int64_t bytes_of_each_ = 1;
  std::int64_t most_ = std::numeric_limits<std::int64_t>::max();
};

}  // namespace

Adaptation adapt_each(
    Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    bool in_full,
    Graphs* graphs) {
  const std::int64_t samples = samples_of(inputs);
  Options alone = options;
  alone.per_sample = false;
  alone.chunk_size.reset();
  if (samples == 0) return adapt_once(network, method, alone, inputs, nullptr, in_full, nullptr);
  const auto adapted = options.num_steps > 0 ? select_parameters(network.parameters(), options.parameters)
                                             : std::vector<NamedParameter>{};
  std::vector<Adaptation> parts;
  const auto one_by_one = [&] {
    parts.clear();
    for (std::int64_t i = 0; i < samples; ++i) {
      parts.push_back(
          as_sample(adapt_once(network, method, alone, slice(inputs, samples, i, 1), nullptr, in_full, graphs)));
    }
  };
  if (network.checkout_each({}, options.normalisation, 1) == nullptr) {
    if (network.is_first_warning()) {
      TORCH_WARN("this kind of network cannot be run on several weights at once; the samples adapt one after another");
    }
    one_by_one();
    return join(std::move(parts));
  }
  try {
    const Method each = stacked(method);
    ChunkSize chunk_size(options, adapted);
    for (std::int64_t begin = 0; begin < samples;) {
      const std::int64_t count = std::min(chunk_size.next(), samples - begin);
      try {
        const Inputs chunk = stack(inputs, samples, begin, count);
        parts.push_back(unstacked(adapt_once(network, each, options, chunk, nullptr, in_full, graphs, count)));
        begin += count;
      } catch (const std::exception& error) {
        if (!is_out_of_memory(error) || !chunk_size.shrink(count)) throw;
      }
    }
  } catch (const c10::ValueError&) {
    throw;
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) throw;
    if (network.is_first_warning()) {
      TORCH_WARN(
          "the model cannot be run on several weights at once; the samples adapt one after another: ", text_of(error));
    }
    one_by_one();
  }
  return join(std::move(parts));
}

}  // namespace it3::detail
