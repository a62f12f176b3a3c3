#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>

namespace it3 {

/// What a network is called with, the same in every pass.
struct Inputs {
  std::vector<c10::IValue> args;
  /// In the order of their names, so that two calls' tensors pair by name.
  std::map<std::string, c10::IValue> kwargs;

  Inputs() = default;

  /// One tensor: the call f(x).
  Inputs(at::Tensor x) : args{std::move(x)} {}

  /// Several: the call f(x, y, ...).
  Inputs(std::initializer_list<at::Tensor> tensors) : args(tensors.begin(), tensors.end()) {}

  explicit Inputs(std::vector<c10::IValue> positional, std::map<std::string, c10::IValue> keywords = {})
      : args(std::move(positional)), kwargs(std::move(keywords)) {}
};

/// The only tensor in the inputs of a model whose forward() takes one. Raises c10::ValueError, telling what was given,
/// for other inputs.
IT3_API at::Tensor single_tensor(const Inputs& inputs);

/// The same inputs with copies of tensors that were made in inference mode, which autograd cannot record.
IT3_API Inputs without_inference_tensors(const Inputs& inputs);

/// The same inputs as constants: detached from the graphs that they come from, and without_inference_tensors().
IT3_API Inputs as_constants(const Inputs& inputs);

/// The first tensor in a value: itself, or in a tuple, list or dict. Undefined if there is none.
IT3_API at::Tensor first_tensor(const c10::IValue& value);

}  // namespace it3
