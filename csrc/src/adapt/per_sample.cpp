#include "adapt/per_sample.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <it3/backend/compiled.h>
#include <it3/backend/interrupts.h>
#include <it3/backend/samples.h>
#include <it3/backend/selection.h>

#include "adapt/adapt_once.h"
#include "adapt/program_evaluation.h"
#include "method/measured_distance.h"
#include "network/map_inputs.h"
#include "support/error_text.h"
#include "support/vmap.h"

namespace it3::detail {

Method stacked(const Method& method) {
  Method each = method;
  each.in_dims = c10::IValue(0);
  each.embed = [embed = method.embed](const at::Tensor& prediction, const at::Tensor& features) {
    return embed(Vmap::wrap(prediction), features);
  };
  each.distance.to_prediction = [distance = method.distance.to_prediction](
                                    const at::Tensor& second, const at::Tensor& reference) {
    const Vmap vmap(second.sym_size(0));
    return Vmap::unwrap(as_scalar(distance(Vmap::wrap(second), Vmap::wrap(reference))));
  };
  return each;
}

namespace {

/// A prediction that is to be that of one sample, with or without a dimension of samples; a stacked one where there is
/// a dimension more.
void check_is_one_sample(const at::Tensor& t, std::int64_t batch_dim) {
  TORCH_CHECK_VALUE(
      t.dim() == 0 || t.size(batch_dim) == 1,
      "per_sample calls the model with one sample at a time, but for one sample it returned a prediction with ",
      t.size(batch_dim),
      " samples; say by in_dims which inputs hold samples, and along which dimension, and by prediction_layout where "
      "the samples are in the prediction");
}

/// Batches of one sample, stacked, as one batch.
at::Tensor unstacked(const at::Tensor& t, const Layout& layout) {
  if (!t.defined() || t.dim() == 1) return t;
  const std::int64_t batch_dim = layout.batch_of(t.dim() - 1);
  if (t.size(0) > 0) check_is_one_sample(t[0], batch_dim);
  return t.squeeze(batch_dim + 1).movedim(0, batch_dim);
}

Adaptation unstacked(Adaptation a, const Layout& layout) {
  for (at::Tensor* const t : {&a.prediction, &a.first, &a.second}) *t = unstacked(*t, layout);
  a.weights.clear();
  return a;
}

/// One adaptation as one sample of several.
Adaptation as_sample(Adaptation a, const Layout& layout) {
  check_is_one_sample(a.first, layout.batch_of(a.first.dim()));
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
    const std::int64_t count = part.losses.size(1);
    const at::Tensor& losses = part.losses;
    const at::Tensor last = part.steps() == 0 ? losses.new_zeros({1, count}) : losses.slice(0, part.steps() - 1);
    columns.push_back(at::cat({losses, last.expand({missing, count})}));
  }
  return at::cat(columns, 1);
}

Adaptation join(std::vector<Adaptation> parts, const Layout& layout) {
  if (parts.size() == 1) return std::move(parts.front());
  Adaptation all;
  for (const auto member :
       {&Adaptation::prediction, &Adaptation::first, &Adaptation::second, &Adaptation::adapted_samples}) {
    std::vector<at::Tensor> tensors;
    tensors.reserve(parts.size());
    for (const auto& part : parts) tensors.push_back(part.*member);
    if (!tensors.front().defined()) continue;
    const bool is_prediction = member != &Adaptation::adapted_samples;
    all.*member = at::cat(tensors, is_prediction ? layout.batch_of(tensors.front().dim()) : 0);
  }
  all.losses = join_losses(parts);
  return all;
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
    for (const auto& p : adapted) bytes_a_sample_ += 5 * static_cast<std::int64_t>(p.tensor.nbytes());
  }

  std::int64_t next() const {
    if (given_) return *given_;
    // Larger chunks are no faster on a CPU, whose caches they leave.
    const std::int64_t most = device_.is_cpu() ? std::min<std::int64_t>(most_, 64) : most_;
    return std::clamp<std::int64_t>(free_memory(device_) / 2 / bytes_a_sample_, 1, most);
  }

  /// A chunk did not fit. False if there is no smaller one.
  bool shrink(std::int64_t samples) {
    most_ = samples / 2;
    return most_ > 0 && !given_;
  }

 private:
  std::optional<std::int64_t> given_;
  c10::Device device_;
  std::int64_t bytes_a_sample_ = 1;
  std::int64_t most_ = std::numeric_limits<std::int64_t>::max();
};

}  // namespace

Adaptation adapt_per_sample(const AdaptCall& call, const std::vector<NamedParameter>& parameters) {
  Network& network = call.network;
  const Method& method = call.method;
  const Options& options = call.options;
  const Layout& layout = method.prediction_layout;
  const Samples samples(call.inputs, method.in_dims, layout);
  Options alone = options;
  alone.per_sample = false;
  alone.chunk_size.reset();
  const auto adapt_alone = [&](const Inputs& sample, std::int64_t number) {
    return adapt_once(
        {.network = network,
         .method = method,
         .options = alone,
         .inputs = sample,
         .with_details = call.with_details,
         .graphs = call.graphs,
         .first_sample = number},
        parameters);
  };
  if (samples.count() == 0) {
    Adaptation empty = adapt_alone(call.inputs, 0);
    empty.losses = empty.losses.new_empty({0, 0});
    empty.weights.clear();
    return empty;
  }
  const auto adapted =
      options.num_steps > 0 ? select_parameters(parameters, options.parameters) : std::vector<NamedParameter>{};
  std::vector<Adaptation> parts;
  const auto one_by_one = [&] {
    parts.clear();
    for (std::int64_t i = 0; i < samples.count(); ++i) {
      parts.push_back(as_sample(adapt_alone(samples.slice(i, 1), i), layout));
    }
  };
  if (network.checkout_per_sample({}, options.normalization(), 1) == nullptr) {
    if (network.is_first_warning()) {
      TORCH_WARN(
          "per_sample: the samples adapt one after another, which is slower, because this model cannot be vectorized; "
          "TorchScript modules, and eager models that torch.export can take, can be");
    }
    one_by_one();
    return join(std::move(parts), layout);
  }
  try {
    const Method each = stacked(method);
    ChunkSize chunk_size(options, adapted);
    for (std::int64_t begin = 0; begin < samples.count();) {
      const std::int64_t count = std::min(chunk_size.next(), samples.count() - begin);
      try {
        const Inputs chunk = samples.stack(begin, count);
        const AdaptCall of_chunk{
            .network = network,
            .method = each,
            .options = options,
            .inputs = chunk,
            .with_details = call.with_details,
            .graphs = call.graphs,
            .compiled = call.compiled,
            .samples = count,
            .first_sample = begin};
        parts.push_back(unstacked(adapt_once(of_chunk, parameters), layout));
        begin += count;
      } catch (const std::exception& error) {
        if (!is_out_of_memory(error) || !chunk_size.shrink(count)) throw;
      }
    }
  } catch (const c10::ValueError&) {
    throw;
  } catch (const ProgramError&) {
    throw;
  } catch (const std::exception& error) {
    rethrow_interrupt(error);
    if (is_out_of_memory(error)) throw;
    if (network.is_first_warning()) {
      TORCH_WARN(
          "per_sample: the samples adapt one after another, which is slower, because the model cannot be vectorized: ",
          text_of(error));
    }
    one_by_one();
  }
  return join(std::move(parts), layout);
}

}  // namespace it3::detail

namespace it3 {

Inputs inputs_of_programs(
    const Inputs& inputs, const Method& method, const Options& options, const std::vector<NamedParameter>& adapted) {
  if (!options.per_sample) return inputs;
  const Samples samples(inputs, method.in_dims, method.prediction_layout);
  return samples.stack(0, std::min(detail::ChunkSize(options, adapted).next(), samples.count()));
}

}  // namespace it3
