#include "autograd/plain_backward.h"

#include <atomic>
#include <queue>
#include <unordered_map>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <it3/backend/plain_backward.h>

namespace it3 {
namespace {

std::atomic<bool> is_on = true;

using torch::autograd::Edge;
using torch::autograd::Node;
using TensorVector = std::vector<at::Tensor>;

/// Runs an autograd graph on one device backwards, in this thread and on its stream. It evaluates the same nodes in the
/// same order as the autograd engine, with the same results to the bit, but without what the engine does around each of
/// them (thread-local state, locks, streams), which takes half the time of a small network's step.
class PlainBackward {
 public:
  /// Nothing if the graph needs the engine.
  static std::optional<TensorVector> run(
      const at::Tensor& output, const at::Tensor& gradient, const TensorVector& leaves) {
    const bool is_nested = torch::autograd::get_current_graph_task_id() != -1;
    const bool has_graph = (output.is_cpu() || output.is_cuda()) && output.grad_fn() != nullptr;
    if (is_nested || torch::autograd::AnomalyMode::is_enabled() || !has_graph) return std::nullopt;
    PlainBackward backward(output.device());
    for (const auto& leaf : leaves) {
      backward.leaf_edges_.push_back(torch::autograd::impl::gradient_edge(leaf));
      backward.states_[backward.leaf_edges_.back().function.get()].is_needed = true;
    }
    if (!backward.collect(output.grad_fn().get())) return std::nullopt;
    return backward.evaluate(static_cast<std::uint32_t>(output.output_nr()), gradient);
  }

 private:
  struct State {
    bool is_needed = false;     // whether a leaf is reached through it
    std::uint32_t missing = 0;  // the edges over which a gradient has yet to come
    TensorVector gradients;
  };

  explicit PlainBackward(at::Device device) : device_(device) {
    if (!device.is_cpu()) stream_ = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  }

  bool is_supported(Node& node) const {
    for (std::uint32_t i = 0; i < node.num_inputs(); ++i) {
      const auto& metadata = node.input_metadata(i);
      if (metadata.device().is_cpu()) continue;
      if (metadata.device() != device_ || metadata.stream() != stream_) return false;
    }
    return node.pre_hooks().empty() && node.post_hooks().empty() && node.tensor_pre_hooks().empty() &&
           node.retains_grad_hooks().empty();
  }

  /// Finds the nodes between the output and the leaves, depth first. Nodes that lead nowhere belong to leaves, which
  /// other threads may differentiate by at the same time; they are not touched.
  bool collect(Node* root) {
    root_ = root;
    states_[root];
    std::vector<std::pair<Node*, std::size_t>> path = {{root, 0}};  // with the next of the node's edges to follow
    while (!path.empty()) {
      auto& [node, position] = path.back();
      if (position < node->num_outputs()) {
        const Edge& edge = node->next_edge(position++);
        if (!edge.is_valid() || edge.function->next_edges().empty()) continue;
        if (states_.try_emplace(edge.function.get()).second) path.emplace_back(edge.function.get(), 0);
        continue;
      }
      if (!is_supported(*node)) return false;
      for (const Edge& edge : node->next_edges()) {
        State* const next = needed_state(edge);
        if (next == nullptr) continue;
        states_.at(node).is_needed = true;
        ++next->missing;
      }
      path.pop_back();
    }
    return true;
  }

  /// The state of the node that an edge leads to; null unless it is needed.
  State* needed_state(const Edge& edge) {
    const auto found = states_.find(edge.function.get());
    return found != states_.end() && found->second.is_needed ? &found->second : nullptr;
  }

  TensorVector evaluate(std::uint32_t position, const at::Tensor& gradient) {
    const at::NoGradGuard no_grad;
    const at::AutoDispatchBelowADInplaceOrView plain_kernels;  // no gradients of gradients, no tracking of views
    const auto later = [](Node* a, Node* b) { return a->sequence_nr() < b->sequence_nr(); };
    std::priority_queue<Node*, std::vector<Node*>, decltype(later)> ready(later);
    accumulate(states_.at(root_).gradients, position, gradient);
    if (states_.at(root_).is_needed) ready.push(root_);
    while (!ready.empty()) {
      Node* const node = ready.top();
      ready.pop();
      TensorVector gradients = std::move(states_.at(node).gradients);
      gradients.resize(node->num_inputs());
      gradients = (*node)(std::move(gradients));
      node->release_variables();
      torch::autograd::validate_outputs(
          node->next_edges(), gradients, [](const std::string& message) { return message; });
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        const Edge& edge = node->next_edge(i);
        State* const next = needed_state(edge);
        if (next == nullptr) continue;
        accumulate(next->gradients, edge.input_nr, std::move(gradients[i]));
        const bool is_leaf = edge.function->next_edges().empty();
        if (--next->missing == 0 && !is_leaf) ready.push(edge.function.get());
      }
    }
    TensorVector of_leaves;
    for (const Edge& edge : leaf_edges_) {
      const TensorVector& found = states_.at(edge.function.get()).gradients;
      of_leaves.push_back(found.empty() ? at::Tensor() : found[0]);
    }
    return of_leaves;
  }

  /// Whether nobody else can see a tensor's memory.
  static bool is_own(const at::Tensor& t) {
    const bool is_plain = t.layout() == at::kStrided && t.is_non_overlapping_and_dense() && !t.is_inference();
    return is_plain && t.use_count() == 1 && t.storage().use_count() == 1;
  }

  static void accumulate(TensorVector& gradients, std::uint32_t position, at::Tensor gradient) {
    if (!gradient.defined()) return;
    if (gradients.size() <= position) gradients.resize(position + 1);
    at::Tensor& sum = gradients[position];
    if (!sum.defined()) {
      sum = std::move(gradient);
    } else if (is_own(sum) && sum.sizes() == gradient.sizes() && sum.dtype() == gradient.dtype()) {
      sum.add_(gradient);
    } else {
      sum = sum.is_sparse() ? gradient + sum : sum + gradient;
    }
  }

  std::unordered_map<Node*, State> states_;
  at::Device device_;
  std::optional<c10::Stream> stream_;  // the current one of the device, unless that is the CPU
  std::vector<Edge> leaf_edges_;
  Node* root_ = nullptr;
};

}  // namespace

void use_plain_backward(bool on) { is_on = on; }

bool uses_plain_backward() { return is_on; }

std::optional<std::vector<at::Tensor>> detail::plain_backward(
    const at::Tensor& output, const at::Tensor& gradient, const std::vector<at::Tensor>& leaves) {
  if (!is_on) return std::nullopt;
  return PlainBackward::run(output, gradient, leaves);
}

}  // namespace it3
