#include <array>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/method.h>

#include "nearest_name.h"

namespace it3 {
namespace {

std::int64_t class_dim(const at::Tensor& t) { return t.dim() > 1 ? 1 : 0; }

/// A sum over the classes, a mean over the rest.
at::Tensor reduce(const at::Tensor& terms) { return terms.sum(class_dim(terms)).mean(); }

at::Tensor probabilities(const at::Tensor& logits) { return logits.softmax(class_dim(logits)); }

at::Tensor cross_entropy(const at::Tensor& second, const at::Tensor& p) {
  return -reduce(p * second.log_softmax(class_dim(second)));
}

// p log p by xlogy, which is 0 at p = 0.
at::Tensor kl(const at::Tensor& second, const at::Tensor& p) {
  return reduce(at::xlogy(p, p) - p * second.log_softmax(class_dim(second)));
}

at::Tensor js(const at::Tensor& second, const at::Tensor& p) {
  const at::Tensor q = probabilities(second);
  const at::Tensor m = (p + q) / 2;
  return reduce(at::xlogy(p, p) - at::xlogy(p, m) + at::xlogy(q, q) - at::xlogy(q, m)) / 2;
}

at::Tensor mse(const at::Tensor& second, const at::Tensor& reference) { return at::mse_loss(second, reference); }

at::Tensor l1(const at::Tensor& second, const at::Tensor& reference) { return at::l1_loss(second, reference); }

at::Tensor cosine(const at::Tensor& second, const at::Tensor& reference) {
  return 1 - at::cosine_similarity(second, reference, class_dim(second)).mean();
}

/// A distance between class distributions: a first prediction is logits, a target is probabilities.
Distance between_distributions(at::Tensor (*to_distribution)(const at::Tensor&, const at::Tensor&)) {
  return {
      [=](const at::Tensor& second, const at::Tensor& first) { return to_distribution(second, probabilities(first)); },
      to_distribution};
}

}  // namespace

const std::vector<std::string>& distance_names() {
  static const std::vector<std::string> names = {"mse", "l1", "cross_entropy", "kl", "js", "cosine"};
  return names;
}

Distance distance_by_name(std::string_view name) {
  if (name == "mse") return {mse};
  if (name == "l1") return {l1};
  if (name == "cross_entropy") return between_distributions(cross_entropy);
  if (name == "kl") return between_distributions(kl);
  if (name == "js") return between_distributions(js);
  if (name == "cosine") return {cosine};
  TORCH_CHECK_VALUE(
      false, "no distance is called '", name, "'; did you mean '", detail::nearest_name(name, distance_names()),
      "'? The distances are ", detail::join(distance_names()));
}

}  // namespace it3
