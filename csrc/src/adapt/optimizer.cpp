#include <it3/backend/optimizer.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/grad_mode.h>

#include "support/as_real.h"
#include "support/plain_memory.h"

namespace it3 {
namespace {

using detail::as_real;

using TensorVector = std::vector<at::Tensor>;

/// A counter of steps, float32, after one more than another, or after the first. On the CPU without operations, which
/// would take longer than the steps of small parameters.
at::Tensor one_more(const at::Tensor& count, const at::TensorOptions& options) {
  if (!options.device().is_cpu()) return count.defined() ? count + 1 : at::ones({}, options.dtype(at::kFloat));
  const at::Tensor next = at::detail::empty_cpu({}, at::kFloat);
  *next.mutable_data_ptr<float>() = count.defined() ? *count.const_data_ptr<float>() + 1 : 1;
  return next;
}

/// The parameters that one kernel call can step: same device, same dtype, all of them for the first time or none.
struct Group {
  std::vector<std::size_t> indices;
  TensorVector weights, gradients, momentum, squares, steps;
  bool is_first_step = false;

  void reserve(std::size_t count) {
    indices.reserve(count);
    for (TensorVector* const list : {&weights, &gradients, &momentum, &squares}) list->reserve(count);
  }
};

bool is_half_precision(const at::Tensor& t) { return t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16; }

/// The gradient in the weight's dtype and memory layout: the fused kernels read raw memory in the weight's order.
at::Tensor match(const at::Tensor& gradient, const at::Tensor& weight) {
  if (gradient.scalar_type() == weight.scalar_type() && gradient.strides() == weight.strides()) return gradient;
  return at::empty_like(weight).copy_(gradient);
}

/// Zeros in the shape and memory layout of each of these tensors, which have one device and dtype.
TensorVector zeros_like_each(const TensorVector& tensors) {
  const std::int64_t total = detail::elements_of(tensors);
  const at::Tensor& first = tensors.front();
  const at::Tensor all = first.is_cpu() ? at::Tensor(at::detail::empty_cpu({total}, first.scalar_type()))
                                        : at::zeros({total}, first.options());
  if (first.is_cpu() && total > 0) std::memset(all.mutable_data_ptr(), 0, all.nbytes());
  return detail::views_like(tensors, all);
}

/// Pieces of tensors in place of the tensors, which is the same, as all rules are elementwise. ATen's kernels take
/// copies of what is not contiguous: it is handed over as a flat view. And on a GPU they give 65,536 elements of a
/// tensor to one block of threads, so that tensors of about this size would leave most of the device idle.
void split(Group& group) {
  constexpr std::int64_t size_of_piece = 4096, most = 262144;
  const bool is_whole = std::all_of(group.weights.begin(), group.weights.end(), [](const at::Tensor& weight) {
    return weight.is_cpu() && weight.is_contiguous();
  });
  if (is_whole) return;
  Group pieces;
  pieces.is_first_step = group.is_first_step;
  for (std::size_t i = 0; i < group.weights.size(); ++i) {
    const at::Tensor& weight = group.weights[i];
    const std::int64_t size = weight.numel();
    const bool is_split = weight.is_cuda() && size > size_of_piece && size <= most;
    const bool is_flat = (is_split || !weight.is_contiguous()) && weight.is_non_overlapping_and_dense();
    const auto add = [&](const TensorVector& from, TensorVector& to) {
      if (from.empty()) return;
      const at::Tensor whole = is_flat ? from[i].as_strided({size}, {1}) : from[i];
      const TensorVector parts = is_flat && is_split ? whole.split(size_of_piece) : TensorVector{whole};
      to.insert(to.end(), parts.begin(), parts.end());
    };
    add(group.weights, pieces.weights);
    add(group.gradients, pieces.gradients);
    add(group.momentum, pieces.momentum);
    add(group.squares, pieces.squares);
    if (!group.steps.empty()) pieces.steps.resize(pieces.weights.size(), group.steps[i]);
  }
  group = std::move(pieces);
}

/// Gradients scaled to a Euclidean norm of at most `max_norm`; of each sample, if their first dimension is samples. Not
/// in place: gradients may share memory.
void clip(TensorVector& gradients, double max_norm, bool per_sample) {
  TensorVector norms;
  at::ScalarType widest = at::kFloat;
  for (const auto& g : gradients) {
    if (!g.defined()) continue;
    const at::ScalarType dtype = at::promote_types(g.scalar_type(), at::kFloat);
    widest = at::promote_types(widest, dtype);
    const at::Tensor of_norm = per_sample ? g.reshape({g.size(0), -1}) : g.reshape({1, -1});
    norms.push_back(at::linalg_vector_norm(of_norm, 2, at::IntArrayRef{1}, /*keepdim=*/false, dtype));
  }
  if (norms.empty()) return;
  for (auto& norm : norms) norm = norm.to(norms.front().device(), widest);
  const at::Tensor norm = at::linalg_vector_norm(at::stack(norms), 2, at::IntArrayRef{0});
  const at::Tensor scale = (max_norm / (norm + 1e-6)).clamp_max(1);
  for (auto& g : gradients) {
    if (!g.defined()) continue;
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(g.dim()), 1);
    if (per_sample) sizes[0] = -1;
    g = g * scale.to(g.device(), g.scalar_type()).view(sizes);
  }
}

// Kingma & Ba, arXiv 1412.6980; AdamW: Loshchilov & Hutter, arXiv 1711.05101.
void adam(const Group& g, const Options& o) {
  const auto [beta1, beta2] = o.betas.value_or(std::pair{0.9, 0.999});
  const double eps = o.eps.value_or(1e-8);
  if (o.optimizer_name == OptimizerKind::adamw) {
    at::_fused_adamw_(
        g.weights, g.gradients, g.momentum, g.squares, {}, g.steps, o.lr, beta1, beta2, o.weight_decay.value_or(1e-2),
        eps, /*amsgrad=*/false, /*maximize=*/false);
  } else {
    at::_fused_adam_(
        g.weights, g.gradients, g.momentum, g.squares, {}, g.steps, o.lr, beta1, beta2, o.weight_decay.value_or(0), eps,
        /*amsgrad=*/false, /*maximize=*/false);
  }
}

void sgd(const Group& g, const Options& o) {
  at::_fused_sgd_(
      g.weights, g.gradients, g.momentum, o.weight_decay.value_or(0), o.momentum.value_or(0), o.lr, /*dampening=*/0,
      /*nesterov=*/false, /*maximize=*/false, g.is_first_step);
}

// Tieleman & Hinton, Coursera lecture 6.5 (2012), with torch.optim's decay of 0.99.
void rmsprop(const Group& g, const Options& o) {
  constexpr double decay = 0.99;
  at::_foreach_mul_(g.squares, decay);
  at::_foreach_addcmul_(g.squares, g.gradients, g.gradients, 1 - decay);
  const auto denominators = at::_foreach_sqrt(g.squares);
  at::_foreach_add_(denominators, o.eps.value_or(1e-8));
  if (g.momentum.empty()) {
    at::_foreach_addcdiv_(g.weights, g.gradients, denominators, -o.lr);
  } else {
    at::_foreach_mul_(g.momentum, o.momentum.value_or(0));
    at::_foreach_addcdiv_(g.momentum, g.gradients, denominators);
    at::_foreach_add_(g.weights, g.momentum, -o.lr);
  }
}

// Duchi, Hazan & Singer, JMLR 12 (2011).
void adagrad(const Group& g, const Options& o) {
  at::_foreach_addcmul_(g.squares, g.gradients, g.gradients);
  const auto denominators = at::_foreach_sqrt(g.squares);
  at::_foreach_add_(denominators, o.eps.value_or(1e-10));
  at::_foreach_addcdiv_(g.weights, g.gradients, denominators, -o.lr);
}

void update(Group& group, const Options& options) {
  const bool is_adaptive =
      options.optimizer_name == OptimizerKind::rmsprop || options.optimizer_name == OptimizerKind::adagrad;
  if (is_adaptive && options.weight_decay.value_or(0) != 0) {
    group.gradients = at::_foreach_add(group.gradients, group.weights, *options.weight_decay);
  }
  switch (options.optimizer_name) {
    case OptimizerKind::adam:
    case OptimizerKind::adamw: return adam(group, options);
    case OptimizerKind::sgd: return sgd(group, options);
    case OptimizerKind::rmsprop: return rmsprop(group, options);
    case OptimizerKind::adagrad: return adagrad(group, options);
  }
}

}  // namespace

Optimizer::Optimizer(const Options& options, std::vector<at::Tensor> parameters, OptimizerState state)
    : options_(options), parameters_(std::move(parameters)), state_(std::move(state)) {
  for (auto& parameter : parameters_) parameter = as_real(parameter);
  for (auto* list : {&state_.momentum, &state_.squares, &state_.steps, &state_.masters}) {
    list->resize(parameters_.size());
  }
}

void Optimizer::step(std::vector<at::Tensor> gradients) {
  const at::NoGradGuard no_grad;
  for (auto& g : gradients) {
    if (g.defined()) g = as_real(g.layout() == at::kStrided ? g : g.to_dense());
  }
  if (options_.max_grad_norm) clip(gradients, *options_.max_grad_norm, options_.per_sample);

  using enum OptimizerKind;
  const OptimizerKind name = options_.optimizer_name;
  const bool is_adam = name == adam || name == adamw;
  const bool has_momentum = is_adam || options_.momentum.value_or(0) != 0;
  const bool has_squares = name != sgd;
  const bool has_memory = has_momentum || has_squares;

  std::map<std::tuple<at::DeviceType, at::DeviceIndex, at::ScalarType, bool>, Group> groups;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients[i].defined()) continue;
    at::Tensor& master = state_.masters[i];
    if (is_half_precision(parameters_[i]) && !master.defined()) master = parameters_[i].to(at::kFloat);
    const at::Tensor& weight = master.defined() ? master : parameters_[i];
    const bool is_first = has_memory && !state_.momentum[i].defined() && !state_.squares[i].defined();
    Group& group = groups[{weight.device().type(), weight.device().index(), weight.scalar_type(), is_first}];
    if (group.indices.empty()) group.reserve(parameters_.size());
    group.is_first_step = is_first;
    group.indices.push_back(i);
    group.weights.push_back(weight);
    group.gradients.push_back(match(std::exchange(gradients[i], {}), weight));
  }

  for (auto& [key, group] : groups) {
    if (group.is_first_step) make_moments(group.indices, group.weights, has_momentum, has_squares);
    for (const std::size_t i : group.indices) {
      if (has_momentum) group.momentum.push_back(state_.momentum[i]);
      if (has_squares) group.squares.push_back(state_.squares[i]);
    }
    if (is_adam) group.steps = count_step(group.indices, group.weights.front().options());
    split(group);
    update(group, options_);
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (state_.masters[i].defined()) parameters_[i].copy_(state_.masters[i]);
  }
}

void Optimizer::restore(const std::vector<at::Tensor>& start, double probability) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& master = state_.masters[i];
    const at::Tensor& weight = master.defined() ? master : parameters_[i];
    const at::Tensor goes_back = at::rand_like(weight, weight.options().dtype(at::kFloat)) < probability;
    weight.copy_(at::where(goes_back, as_real(start[i]).to(weight.scalar_type()), weight));
    if (master.defined()) parameters_[i].copy_(master);
  }
}

/// The moments of parameters before their first step.
void Optimizer::make_moments(
    const std::vector<std::size_t>& indices, const TensorVector& weights, bool has_momentum, bool has_squares) {
  TensorVector like = weights;
  if (has_momentum && has_squares) like.insert(like.end(), weights.begin(), weights.end());
  const TensorVector zeros = zeros_like_each(like);
  for (std::size_t k = 0; k < indices.size(); ++k) {
    if (has_momentum) state_.momentum[indices[k]] = zeros[k];
    if (has_squares) state_.squares[indices[k]] = zeros[zeros.size() - indices.size() + k];
  }
}

/// Parameters that were stepped together so far share one counter; those left out of a step keep the old one.
std::vector<at::Tensor> Optimizer::count_step(const std::vector<std::size_t>& indices, at::TensorOptions options) {
  std::map<at::TensorImpl*, at::Tensor> next;
  TensorVector steps;
  for (const std::size_t i : indices) {
    at::Tensor& count = next[state_.steps[i].unsafeGetTensorImpl()];
    if (!count.defined()) count = one_more(state_.steps[i], options);
    steps.push_back(count);
  }
  for (std::size_t k = 0; k < indices.size(); ++k) state_.steps[indices[k]] = steps[k];
  return steps;
}

}  // namespace it3
