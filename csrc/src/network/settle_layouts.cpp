#include <it3/backend/settle_layouts.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <it3/backend/interrupts.h>

#include "network/map_inputs.h"
#include "support/error_text.h"
#include "support/random_state_guard.h"

namespace it3 {
namespace {

using Dims = std::vector<std::int64_t>;

/// What one pass gave; undefined what it failed to.
struct Values {
  at::Tensor prediction, features;
};

/// A plain pass. What it has seen of the features stays in `values` if it raises.
void run(Network& network, const Inputs& inputs, Values& values) {
  // Copies, as operations in place would change them.
  const Inject look([&](const at::Tensor& features) {
    values.features = features.detach().clone();
    return features;
  });
  const auto copy = network.checkout({});
  values.prediction = copy->predict(inputs, &look).prediction.detach().clone();
}

/// A copy that operations in place may change, and that requires gradients as the given tensor does.
at::Tensor copy_of(const at::Tensor& t, const at::Tensor& like) {
  return t.clone().set_requires_grad(like.requires_grad());
}

/// The inputs' tensor of the highest rank: its dimensions are those that are changed.
at::Tensor leading_tensor(const Inputs& inputs) {
  at::Tensor leading;
  const auto look = [&](const at::Tensor& t) {
    const bool is_plain = t.layout() == at::kStrided && !t.is_nested();
    if (is_plain && (!leading.defined() || t.dim() > leading.dim())) leading = t;
    return t;
  };
  detail::map_tensors(inputs.args, look);
  const std::map<std::string, c10::IValue> by_name(inputs.kwargs.begin(), inputs.kwargs.end());
  for (const auto& [name, value] : by_name) detail::map_tensors(value, look);
  return leading;
}

enum class Change { without_first, half, doubled };

at::Tensor changed(const at::Tensor& t, std::int64_t dim, Change change) {
  const std::int64_t size = t.size(dim);
  switch (change) {
    case Change::without_first: return t.narrow(dim, 1, size - 1);
    case Change::half: return t.narrow(dim, 0, size / 2);
    // What comes first differs, so that a layer that looks at all gives something else for the rest.
    default: return at::cat({t.is_floating_point() ? t * 0.5 : t, t}, dim);
  }
}

/// The dimensions in which two sizes differ; nothing if they differ in their number.
std::optional<Dims> differing(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.dim() != b.dim()) return std::nullopt;
  Dims dims;
  for (std::int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) dims.push_back(d);
  }
  return dims;
}

/// Whether the last values along a dimension are the same in both, but for rounding.
bool have_same_end(const at::Tensor& a, const at::Tensor& b, std::int64_t dim) {
  const std::int64_t size = std::min(a.size(dim), b.size(dim));
  const auto end_of = [&](const at::Tensor& t) {
    return t.narrow(dim, t.size(dim) - size, size).to(t.is_complex() ? at::kComplexDouble : at::kDouble);
  };
  const at::Tensor expected = end_of(a);
  if (expected.numel() == 0) return true;
  const double share = at::isReducedFloatingType(a.scalar_type()) ? 0.05 : 1e-3;
  const double greatest = expected.abs().nan_to_num(0, 0, 0).max().item<double>();
  return at::allclose(end_of(b), expected, /*rtol=*/0, share * greatest + 1e-12, /*equal_nan=*/true);
}

/// The inputs of one call, and passes on others like them.
class Probe {
 public:
  Probe(Network& network, const Inputs& inputs)
      : network_(network), inputs_(without_inference_tensors(inputs)), leading_(leading_tensor(inputs_)) {
    run(network_, detail::map_tensors(inputs_, [](const at::Tensor& t) { return copy_of(t, t); }), base_);
  }

  const Values& base() const { return base_; }
  std::int64_t rank() const { return leading_.defined() ? leading_.dim() : 0; }

  /// A pass in which every tensor that has the leading one's size in these dimensions has another one there; nothing
  /// where that cannot be.
  std::optional<Values> with(const Dims& dims, Change change) const {
    // A table of positions that ends raises, but on a GPU takes the whole process with it.
    if (change == Change::doubled && leading_.defined() && !leading_.is_cpu()) return std::nullopt;
    const std::int64_t least = change == Change::doubled ? 1 : 2;
    for (const std::int64_t dim : dims) {
      if (dim >= rank() || leading_.size(dim) < least) return std::nullopt;
    }
    const auto change_all = [&](const at::Tensor& t) {
      at::Tensor other = t;
      if (t.layout() != at::kStrided || t.is_nested()) return copy_of(t, t);
      for (const std::int64_t dim : dims) {
        if (dim < t.dim() && t.size(dim) == leading_.size(dim)) other = changed(other, dim, change);
      }
      return copy_of(other, t);
    };
    Values values;
    try {
      run(network_, detail::map_tensors(inputs_, change_all), values);
    } catch (const std::exception& error) {  // a size that the network does not take, which is what is asked
      detail::rethrow_interrupt(error);
      if (detail::is_out_of_memory(error)) throw;
      if (!values.features.defined()) return std::nullopt;
    }
    return values;
  }

  /// The dimensions, but for `batch`, in which the leading tensor has the same size as in `dim`.
  Dims alike(std::int64_t dim, std::int64_t batch) const {
    Dims dims;
    for (std::int64_t d = 0; d < rank(); ++d) {
      if (d != batch && leading_.size(d) == leading_.size(dim)) dims.push_back(d);
    }
    return dims;
  }

 private:
  Network& network_;
  Inputs inputs_;
  at::Tensor leading_;
  Values base_;
};

using Which = at::Tensor Values::*;

/// Where samples are.
class Batches {
 public:
  Batches(const Probe& probe, const Origin& prediction, const Origin& features) : probe_(probe) {
    bool is_first = true, is_second = false;
    for (const Origin* origin : {&prediction, &features}) {
      for (const auto* kinds : {&origin->inside, &origin->before}) {
        for (const LayerKind& kind : *kinds) {
          if (!kind.takes_sequences) continue;
          if (!kind.batch_first.value_or(false)) is_first = false;
          if (!kind.batch_first.value_or(true)) is_second = true;
        }
      }
    }
    if (is_first) candidates_ = {0};
    if (is_second) candidates_ = {1, 0};
  }

  /// The dimension of the inputs.
  std::int64_t of_inputs() const { return of_inputs_; }

  std::int64_t of(Which which, const Origin& origin) {
    const at::Tensor& base = probe_.base().*which;
    if (base.dim() < 3) return 0;
    // A convolution's are first.
    if (origin.is_direct && origin.inside.back().channel_dim == 1) return 0;
    std::optional<std::int64_t> by_size;
    for (const std::int64_t candidate : candidates_) {
      const auto other = pass(candidate);
      if (!other) continue;
      const auto dims = differing(base, (*other).*which);
      if (!dims || dims->size() != 1) continue;
      if (have_same_end(base, (*other).*which, dims->front())) {
        of_inputs_ = candidate;
        return dims->front();
      }
      if (!by_size) by_size = dims->front();
    }
    return by_size.value_or(candidates_.front());
  }

 private:
  const std::optional<Values>& pass(std::int64_t dim) {
    const auto found = passes_.find(dim);
    if (found != passes_.end()) return found->second;
    auto values = probe_.with({dim}, Change::without_first);
    if (!values) values = probe_.with({dim}, Change::doubled);
    return passes_.emplace(dim, std::move(values)).first->second;
  }

  const Probe& probe_;
  // In which the inputs may have their samples, the likely one first.
  Dims candidates_ = {0, 1};
  std::int64_t of_inputs_ = 0;
  std::map<std::int64_t, std::optional<Values>> passes_;
};

/// Passes in which the dimensions of the inputs that are no samples have other sizes.
std::vector<Values> passes_of_other_sizes(const Probe& probe, std::int64_t batch) {
  std::vector<Values> passes;
  for (std::int64_t dim = 0; dim < probe.rank(); ++dim) {
    if (dim == batch) continue;
    const Dims alike = probe.alike(dim, batch);
    bool has_changed = false;
    const auto attempt = [&](const Dims& dims, Change change) {
      if (has_changed) return;
      auto values = probe.with(dims, change);
      if (!values) return;
      for (const Which which : {&Values::prediction, &Values::features}) {
        const auto differ = differing(probe.base().*which, (*values).*which);
        has_changed = has_changed || (differ && !differ->empty());
      }
      passes.push_back(std::move(*values));
    };
    attempt({dim}, Change::half);
    attempt({dim}, Change::doubled);
    if (alike.size() > 1) {  // images that have to be squares
      attempt(alike, Change::half);
      attempt(alike, Change::doubled);
    }
  }
  return passes;
}

/// The channel dimension by what is known, or nothing.
class Channels {
 public:
  Channels(const at::Tensor& value, std::int64_t batch, const Origin& origin)
      : value_(value), batch_(batch), origin_(origin) {
    for (const auto* kinds : {&origin.before, &origin.inside}) {
      for (const LayerKind& kind : *kinds) {
        if (kind.channels) counts_.insert(*kind.channels);
        if (kind.channel_dim) kind_dims_.insert(wrapped(*kind.channel_dim));
      }
    }
  }

  /// By the layer that returned the value.
  std::optional<std::int64_t> by_kind() const {
    if (!origin_.is_direct) return std::nullopt;
    const LayerKind& kind = origin_.inside.back();
    if (!kind.channel_dim) return std::nullopt;
    const std::int64_t dim = wrapped(*kind.channel_dim);
    if (dim < 0 || dim >= value_.dim() || (kind.channels && value_.size(dim) != *kind.channels)) return std::nullopt;
    return kind.channel_dim;
  }

  /// By passes with other sizes: what changes is no channel.
  std::optional<std::int64_t> by_sizes(const std::vector<Values>& passes, Which which) const {
    std::set<std::int64_t> places;
    for (const Values& other : passes) {
      for (const std::int64_t dim : differing(value_, other.*which).value_or(Dims())) places.insert(dim);
    }
    Dims fixed;
    for (std::int64_t dim = 0; dim < value_.dim(); ++dim) {
      if (dim != batch_ && !places.contains(dim)) fixed.push_back(dim);
    }
    return fixed.size() < 2 ? only(fixed) : by_counts(fixed);
  }

 private:
  std::int64_t wrapped(std::int64_t dim) const { return dim < 0 ? dim + value_.dim() : dim; }

  static std::optional<std::int64_t> only(const Dims& dims) {
    return dims.size() == 1 ? std::optional(dims.front()) : std::nullopt;
  }

  /// Of dimensions whose sizes do not change, the one that has a number of channels.
  std::optional<std::int64_t> by_counts(const Dims& fixed) const {
    Dims matching;
    for (const std::int64_t dim : fixed) {
      if (counts_.contains(value_.size(dim))) matching.push_back(dim);
    }
    // One that is a place to all layers can have a layer's size by chance.
    if (matching.size() == 1 && kind_dims_.contains(matching.front())) return matching.front();
    std::set<std::int64_t> inside;
    std::optional<std::int64_t> count;
    for (const LayerKind& kind : origin_.inside) {
      if (kind.channel_dim) inside.insert(wrapped(*kind.channel_dim));
      if (kind.channels) count = kind.channels;
    }
    if (inside.size() != 1 || std::find(fixed.begin(), fixed.end(), *inside.begin()) == fixed.end()) return {};
    const bool fits = count ? value_.size(*inside.begin()) == *count : matching.empty();
    return fits ? std::optional(*inside.begin()) : std::nullopt;
  }

  const at::Tensor& value_;
  std::int64_t batch_;
  const Origin& origin_;
  std::set<std::int64_t> counts_;     // of channels, of all layers
  std::set<std::int64_t> kind_dims_;  // in which the layers have theirs
};

void check_given(const Layout& layout, const at::Tensor& value, const std::string& what, const char* argument) {
  const std::int64_t rank = value.dim(), channel_dim = layout.channel_dim.value_or(0);
  const auto is_there = [&](std::int64_t dim) { return dim >= -rank && dim < rank; };
  TORCH_CHECK_INDEX(
      rank < 2 || (is_there(channel_dim) && is_there(layout.batch_of(rank))), argument,
      " has channel_dim=", channel_dim, " and batch_dim=", layout.batch_dim, ", but ", what, ", of shape ",
      value.sizes(), ", only has the dimensions ", -rank, " to ", rank - 1);
  TORCH_CHECK_VALUE(
      rank < 2 || layout.channel_of(rank) != layout.batch_of(rank), argument,
      " names one dimension for both the channels and the samples of ", what, ", of shape ", value.sizes(),
      "; give two different ones");
}

/// One of the two tensors of a call.
struct Side {
  Which which;
  const Layout& given;
  const Origin& origin;
  bool is_needed;
  std::string what;
  const char* argument;
};

class Settling {
 public:
  Settling(Network& network, const Inputs& inputs, const Origin& of_prediction, const Origin& of_features)
      : probe_(network, inputs), batches_(probe_, of_prediction, of_features) {}

  Layout operator()(const Side& side) {
    const at::Tensor& value = probe_.base().*side.which;
    if (side.given.channel_dim) {
      check_given(side.given, value, side.what, side.argument);
      return side.given;
    }
    Layout layout{{}, side.given.batch_dim != 0 ? side.given.batch_dim : batches_.of(side.which, side.origin)};
    const Channels channels(value, layout.batch_dim, side.origin);
    layout.channel_dim = channels.by_kind();
    if (layout.channel_dim || value.dim() < 3) return layout;
    if (!passes_) passes_ = passes_of_other_sizes(probe_, batches_.of_inputs());
    layout.channel_dim = channels.by_sizes(*passes_, side.which);
    TORCH_CHECK_VALUE(
        layout.channel_dim || !side.is_needed, "it is not clear which dimension of ", side.what, ", shape ",
        value.sizes(), ", holds the channels; give ", side.argument,
        "=it3.Layout(channel_dim=...), or an embedder and a combine_fn of your own");
    if (layout.channel_dim == value.dim() - 1) layout.channel_dim = -1;  // so for tensors of other ranks too
    return layout;
  }

 private:
  Probe probe_;
  Batches batches_;
  std::optional<std::vector<Values>> passes_;
};

/// For passes that nobody shall notice.
struct Unnoticed {
  explicit Unnoticed(const Network& network) : random(tensors_of(network.parameters()), /*always=*/true) {}
  detail::RandomStateGuard random;
  c10::InferenceMode no_inference{false};
  at::NoGradGuard no_grad;
};

}  // namespace

Layouts settle_layouts(
    Network& network,
    const Inputs& inputs,
    const Layouts& given,
    const Origin& of_prediction,
    const Origin& of_features,
    const std::string& layer,
    NeededLayouts needed) {
  const Unnoticed unnoticed(network);
  Settling settle(network, inputs, of_prediction, of_features);
  return {
      settle(
          {&Values::prediction, given.prediction, of_prediction, needed.prediction, "the prediction",
           "prediction_layout"}),
      settle(
          {&Values::features, given.features, of_features, needed.features, "the features of layer '" + layer + "'",
           "features_layout"})};
}

Shapes settled_shapes(Network& network, const Inputs& inputs, const Layouts& layouts) {
  const Unnoticed unnoticed(network);
  const Values values = Probe(network, inputs).base();
  const auto settled = [](const at::Tensor& value, const Layout& layout) {
    const std::int64_t rank = value.dim();
    ShapeAndLayout of{value.sizes().vec(), {.batch_dim = layout.batch_of(rank)}};
    if (rank > 1) of.layout.channel_dim = layout.channel_of(rank);
    return of;
  };
  return {settled(values.prediction, layouts.prediction), settled(values.features, layouts.features)};
}

}  // namespace it3
