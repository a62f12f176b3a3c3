#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/ivalue.h>

namespace it3 {

/// What a network is called with, the same in every pass.
struct Inputs {
  std::vector<c10::IValue> args;
  std::unordered_map<std::string, c10::IValue> kwargs;

  Inputs() = default;

  /// One tensor: the call f(x).
  Inputs(at::Tensor x) : args{std::move(x)} {}

  explicit Inputs(std::vector<c10::IValue> positional, std::unordered_map<std::string, c10::IValue> keywords = {})
      : args(std::move(positional)), kwargs(std::move(keywords)) {}
};

}  // namespace it3
