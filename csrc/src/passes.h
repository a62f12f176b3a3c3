#pragma once

#include <optional>
#include <utility>

#include <ATen/core/grad_mode.h>

#include <it3/method.h>
#include <it3/network.h>

namespace it3::detail {

/// What is injected for a signal: combine(features, embed(signal)). Borrows the method.
inline Inject injection(const Method& method, at::Tensor signal) {
  return {
      [&method, signal = std::move(signal)](const at::Tensor& features) {
        return method.combine(features, method.embed(signal, features));
      },
      method.takes_any_layout};
}

/// The two passes on one batch, by a method. Borrows all that it is given.
class Passes {
 public:
  /// @param neutral  see neutral_signal()
  /// @param widens  whether predictions in half precision become float32
  Passes(const Method& method, const Inputs& inputs, at::Tensor neutral = {}, bool widens = false)
      : method_(method), inputs_(inputs), neutral_(std::move(neutral)), widens_(widens) {}

  /// Runs the head now, for all passes to come. Only for a network whose head is fixed.
  void fix_head(TwoPass& network) {
    const at::NoGradGuard no_grad;
    head_ = network.prepare(inputs_);
  }

  /// y0 = f(x), or f(x | neutral).
  FirstPass first(TwoPass& network) const {
    std::optional<Inject> inject;
    if (neutral_.defined()) inject = injection(method_, neutral_);
    FirstPass first;
    if (head_) {
      first = *head_;
      first.prediction = network.resume(inputs_, first, inject ? &*inject : nullptr);
    } else {
      first = network.predict(inputs_, inject ? &*inject : nullptr);
    }
    first.prediction = widened(first.prediction);
    return first;
  }

  /// y1 = f(x | signal).
  at::Tensor second(TwoPass& network, const FirstPass& first, const at::Tensor& signal) const {
    const Inject inject = injection(method_, signal);
    return widened(network.resume(inputs_, first, &inject));
  }

  FirstPass prepare(TwoPass& network) const { return head_ ? *head_ : network.prepare(inputs_); }

 private:
  at::Tensor widened(const at::Tensor& prediction) const {
    return widens_ && at::isReducedFloatingType(prediction.scalar_type()) ? prediction.to(at::kFloat) : prediction;
  }

  const Method& method_;
  const Inputs& inputs_;
  at::Tensor neutral_;
  bool widens_;
  std::optional<FirstPass> head_;
};

}  // namespace it3::detail
