#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>

#include <it3/backend/export.h>

namespace it3 {

/// The arguments that a network is called with in every pass: positional ones and keywords. The samples of a batch lie
/// along dimension 0 of its tensors, unless InDims says otherwise.
///
/// @code{.cpp}
/// it3::Inputs one(x);              // f(x)
/// it3::Inputs two({x, y});         // f(x, y)
/// it3::Inputs named({x}, {{"mask", torch::ones({8}, torch::kBool)}});  // f(x, mask=...)
/// assert(two.args.size() == 2 && named.kwargs.at("mask").isTensor());
/// @endcode
struct Inputs {
  /// Positional arguments: tensors, numbers, strings, and tuples, lists and dicts of them.
  std::vector<c10::IValue> args;
  /// Keyword arguments, in the order of their names.
  std::map<std::string, c10::IValue> kwargs;

  /// No arguments.
  Inputs() = default;

  /// One tensor: the call f(x).
  Inputs(at::Tensor x) : args{std::move(x)} {}

  /// Several: the call f(x, y, ...).
  Inputs(std::initializer_list<at::Tensor> tensors) : args(tensors.begin(), tensors.end()) {}

  /// Any arguments, positional ones and keywords.
  explicit Inputs(std::vector<c10::IValue> positional, std::map<std::string, c10::IValue> keywords = {})
      : args(std::move(positional)), kwargs(std::move(keywords)) {}
};

/// The tensor in the inputs of a model whose forward() takes exactly one.
///
/// @throws c10::ValueError  for inputs other than one tensor, telling what was given
///
/// @code{.cpp}
/// at::Tensor same = it3::single_tensor(it3::Inputs(x));
/// assert(same.is_same(x));
/// @endcode
IT3_API at::Tensor single_tensor(const Inputs& inputs);

/// The same inputs, in which tensors that were made in inference mode are replaced by copies, as autograd cannot record
/// them.
IT3_API Inputs without_inference_tensors(const Inputs& inputs);

/// The same inputs as constants: detached from autograd's graph, and without_inference_tensors().
IT3_API Inputs as_constants(const Inputs& inputs);

/// The first tensor in a value, which may be a tensor, or a tuple, list or dict. Undefined if there is none.
IT3_API at::Tensor first_tensor(const c10::IValue& value);

}  // namespace it3
