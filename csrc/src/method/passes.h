#pragma once

#include <optional>
#include <utility>

#include <ATen/core/grad_mode.h>

#include <c10/util/Exception.h>

#include <it3/backend/feedback.h>
#include <it3/method.h>
#include <it3/network.h>

#include "network/pass_inputs.h"
#include "support/vmap.h"

namespace it3::detail {

/// What is injected for a signal: combine(features, embed(signal)). Borrows the method.
///
/// @param are_stacked  see Network::checkout_per_sample()
inline Inject injection(const Method& method, at::Tensor signal, bool are_stacked = false) {
  return {
      [&method, signal = std::move(signal)](const at::Tensor& features) {
        // A function of the user's may write to what it is given, which other passes need.
        const auto given = [&](const at::Tensor& t) { return method.takes_any_layout ? t : t.clone(); };
        const at::Tensor own = given(features);
        at::Tensor combined = method.combine(own, method.embed(given(signal), own));
        TORCH_CHECK_VALUE(
            combined.sym_sizes() == features.sym_sizes(), "combine_fn must return a tensor of the features' shape, ",
            features.sizes(), ", not one of shape ", combined.sizes());
        return combined;
      },
      method.takes_any_layout || are_stacked};
}

/// The two passes on one batch, by a method. Borrows all that it is given.
class Passes {
 public:
  /// @param neutral  see neutral_signal()
  /// @param widens  whether predictions in half precision become float32
  /// @param are_stacked  whether predictions are those of samples by themselves, see Network::checkout_per_sample()
  Passes(
      const Method& method, PassInputs& inputs, at::Tensor neutral = {}, bool widens = false, bool are_stacked = false)
      : method_(method), inputs_(inputs), neutral_(std::move(neutral)), widens_(widens), are_stacked_(are_stacked) {}

  /// Runs the head now, for all passes to come. Only for a network whose head is fixed.
  void fix_head(TwoPass& network) {
    const at::NoGradGuard no_grad;
    head_ = network.prepare(inputs_.next());
  }

  bool has_fixed_head() const { return head_.has_value(); }

  /// y0 = f(x), or f(x | neutral).
  FirstPass first(TwoPass& network) const {
    std::optional<Inject> inject;
    if (neutral_.defined()) inject = injection(method_, neutral_, are_stacked_);
    FirstPass first;
    if (head_) {
      first = *head_;
      first.prediction = network.resume(inputs_.next(), first, inject ? &*inject : nullptr);
    } else {
      first = network.predict(inputs_.next(), inject ? &*inject : nullptr);
    }
    first.prediction = widened(first.prediction);
    return first;
  }

  /// f(x | signal), such as a target.
  at::Tensor with_signal(TwoPass& network, const FirstPass& first, const at::Tensor& signal) const {
    const Inject inject = injection(method_, signal, are_stacked_);
    return widened(network.resume(inputs_.next(), first, &inject));
  }

  /// y1 = f(x | y0).
  at::Tensor second(TwoPass& network, const FirstPass& first, const at::Tensor& prediction) const {
    return with_signal(network, first, signal(prediction));
  }

  /// What of a prediction is fed back.
  at::Tensor signal(const at::Tensor& prediction) const {
    return method_.feeds_probabilities ? probabilities(prediction) : prediction;
  }

  FirstPass prepare(TwoPass& network) const { return head_ ? *head_ : network.prepare(inputs_.next()); }

 private:
  at::Tensor probabilities(const at::Tensor& prediction) const {
    if (!are_stacked_) return class_probabilities(prediction, method_.prediction_layout);
    const Vmap vmap(prediction.sym_size(0));
    return Vmap::unwrap(class_probabilities(Vmap::wrap(prediction), method_.prediction_layout));
  }

  at::Tensor widened(const at::Tensor& prediction) const {
    return widens_ && at::isReducedFloatingType(prediction.scalar_type()) ? prediction.to(at::kFloat) : prediction;
  }

  const Method& method_;
  PassInputs& inputs_;
  at::Tensor neutral_;
  bool widens_;
  bool are_stacked_;
  std::optional<FirstPass> head_;
};

}  // namespace it3::detail
