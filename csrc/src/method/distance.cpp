#include <numbers>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/method.h>

#include "method/class_dim.h"
#include "support/nearest_name.h"

namespace it3 {
namespace {

/// Class probabilities, their logarithms and p log p. All of them, and their gradients, are finite for any finite
/// logits.
struct Distribution {
  at::Tensor p, log_p, p_log_p;
};

Distribution from_logits(const at::Tensor& logits, std::int64_t dim) {
  const at::Tensor log_p = logits.log_softmax(dim);
  const at::Tensor p = log_p.exp();
  return {p, log_p, p * log_p};
}

/// Of probabilities that can be 0, such as one-hot ones; p log p is 0 there.
Distribution from_probabilities(const at::Tensor& p) { return {p, p.log(), at::xlogy(p, p)}; }

// Terms that are summed over the classes.
at::Tensor cross_entropy(const Distribution& q, const Distribution& p) { return -(p.p * q.log_p); }

at::Tensor kl(const Distribution& q, const Distribution& p) { return p.p_log_p - p.p * q.log_p; }

at::Tensor js(const Distribution& q, const Distribution& p) {
  const at::Tensor log_m = at::logaddexp(p.log_p, q.log_p) - std::numbers::ln2;
  return (p.p_log_p + q.p_log_p - (p.p + q.p) * log_m) / 2;
}

at::Tensor mse(const at::Tensor& second, const at::Tensor& reference) { return at::mse_loss(second, reference); }

at::Tensor l1(const at::Tensor& second, const at::Tensor& reference) { return at::l1_loss(second, reference); }

/// A distance between class distributions, a sum over the classes and a mean over the rest: predictions are logits, a
/// target is probabilities.
Distance between(
    at::Tensor (*terms)(const Distribution& q, const Distribution& p), std::string_view name, const Layout& layout) {
  const auto checked_dim = [need = c10::str("the distance '", name, "' compares class distributions"), layout](
                               const at::Tensor& t) { return detail::class_dim(t, layout, need, "use 'mse' or 'l1'"); };
  return {
      [=](const at::Tensor& second, const at::Tensor& first) {
        const std::int64_t dim = checked_dim(second);
        return terms(from_logits(second, dim), from_logits(first, dim)).sum(dim).mean();
      },
      [=](const at::Tensor& second, const at::Tensor& target) {
        const std::int64_t dim = checked_dim(second);
        return terms(from_logits(second, dim), from_probabilities(target)).sum(dim).mean();
      }};
}

/// The distance of this name, still without it.
Distance choose(std::string_view name, const Layout& layout) {
  if (name == "mse") return {mse};
  if (name == "l1") return {l1};
  if (name == "cross_entropy") return between(cross_entropy, name, layout);
  if (name == "kl") return between(kl, name, layout);
  if (name == "js") return between(js, name, layout);
  if (name == "cosine") {
    return {[layout](const at::Tensor& second, const at::Tensor& reference) {
      constexpr std::string_view need = "the distance 'cosine' compares the directions of several numbers per sample";
      const std::int64_t dim = detail::class_dim(second, layout, need, "use 'mse' or 'l1'");
      return 1 - at::cosine_similarity(second, reference, dim).mean();
    }};
  }
  TORCH_CHECK_VALUE(
      false, "no distance is called '", name, "'; did you mean '", detail::nearest_name(name, distance_names()),
      "'? The distances are ", detail::join(distance_names()));
}

}  // namespace

const std::vector<std::string>& distance_names() {
  static const std::vector<std::string> names = {"mse", "l1", "cross_entropy", "kl", "js", "cosine"};
  return names;
}

Distance distance_by_name(std::string_view name, const Layout& layout) {
  Distance distance = choose(name, layout);
  distance.name = std::string(name);
  return distance;
}

bool is_between_distributions(std::string_view name) { return name == "cross_entropy" || name == "kl" || name == "js"; }

}  // namespace it3
