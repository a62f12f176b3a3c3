#pragma once

#include <utility>

#include <it3/method.h>
#include <it3/network.h>

namespace it3::detail {

/// y1 = f(x | combine(features, embed(signal))).
inline at::Tensor second_pass(
    TwoPass& network, const Method& method, const Inputs& inputs, const FirstPass& first, const at::Tensor& signal) {
  const auto inject = [&](const at::Tensor& features) {
    return method.combine(features, method.embed(signal, features));
  };
  return network.resume(inputs, first, {inject, method.takes_any_layout});
}

}  // namespace it3::detail
