#include <numbers>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/method.h>

#include "nearest_name.h"

namespace it3 {
namespace {

std::int64_t class_dim(const at::Tensor& t) { return t.dim() > 1 ? 1 : 0; }

/// A sum over the classes, a mean over the rest.
at::Tensor reduce(const at::Tensor& terms) { return terms.sum(class_dim(terms)).mean(); }

/// Class probabilities, their logarithms and p log p. All of them, and their gradients, are finite for any finite
/// logits.
struct Distribution {
  at::Tensor p, log_p, p_log_p;
};

Distribution from_logits(const at::Tensor& logits) {
  const at::Tensor log_p = logits.log_softmax(class_dim(logits));
  const at::Tensor p = log_p.exp();
  return {p, log_p, p * log_p};
}

/// Of probabilities that can be 0, such as one-hot ones; p log p is 0 there.
Distribution from_probabilities(const at::Tensor& p) { return {p, p.log(), at::xlogy(p, p)}; }

at::Tensor cross_entropy(const Distribution& q, const Distribution& p) { return -reduce(p.p * q.log_p); }

at::Tensor kl(const Distribution& q, const Distribution& p) { return reduce(p.p_log_p - p.p * q.log_p); }

at::Tensor js(const Distribution& q, const Distribution& p) {
  const at::Tensor log_m = at::logaddexp(p.log_p, q.log_p) - std::numbers::ln2;
  return reduce(p.p_log_p + q.p_log_p - (p.p + q.p) * log_m) / 2;
}

at::Tensor mse(const at::Tensor& second, const at::Tensor& reference) { return at::mse_loss(second, reference); }

at::Tensor l1(const at::Tensor& second, const at::Tensor& reference) { return at::l1_loss(second, reference); }

at::Tensor cosine(const at::Tensor& second, const at::Tensor& reference) {
  return 1 - at::cosine_similarity(second, reference, class_dim(second)).mean();
}

/// A distance between class distributions: predictions are logits, a target is probabilities.
Distance between(at::Tensor (*distance)(const Distribution& q, const Distribution& p)) {
  return {
      [=](const at::Tensor& second, const at::Tensor& first) {
        return distance(from_logits(second), from_logits(first));
      },
      [=](const at::Tensor& second, const at::Tensor& target) {
        return distance(from_logits(second), from_probabilities(target));
      }};
}

/// The distance of this name, still without it.
Distance choose(std::string_view name) {
  if (name == "mse") return {mse};
  if (name == "l1") return {l1};
  if (name == "cross_entropy") return between(cross_entropy);
  if (name == "kl") return between(kl);
  if (name == "js") return between(js);
  if (name == "cosine") return {cosine};
  TORCH_CHECK_VALUE(
      false, "no distance is called '", name, "'; did you mean '", detail::nearest_name(name, distance_names()),
      "'? The distances are ", detail::join(distance_names()));
}

}  // namespace

const std::vector<std::string>& distance_names() {
  static const std::vector<std::string> names = {"mse", "l1", "cross_entropy", "kl", "js", "cosine"};
  return names;
}

Distance distance_by_name(std::string_view name) {
  Distance distance = choose(name);
  distance.name = std::string(name);
  return distance;
}

}  // namespace it3
