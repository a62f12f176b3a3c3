#pragma once

#include <utility>

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
  Passes(const Method& method, const Inputs& inputs, at::Tensor neutral = {})
      : method_(method), inputs_(inputs), neutral_(std::move(neutral)) {}

  /// y0 = f(x), or f(x | neutral).
  FirstPass first(TwoPass& network) const {
    if (!neutral_.defined()) return network.predict(inputs_);
    const Inject inject = injection(method_, neutral_);
    return network.predict(inputs_, &inject);
  }

  /// y1 = f(x | signal).
  at::Tensor second(TwoPass& network, const FirstPass& first, const at::Tensor& signal) const {
    return network.resume(inputs_, first, injection(method_, signal));
  }

  FirstPass prepare(TwoPass& network) const { return network.prepare(inputs_); }

 private:
  const Method& method_;
  const Inputs& inputs_;
  at::Tensor neutral_;
};

}  // namespace it3::detail
