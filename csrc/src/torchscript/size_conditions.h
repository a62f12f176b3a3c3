#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <ATen/core/stack.h>
#include <torch/csrc/jit/runtime/interpreter.h>

namespace it3::detail {

/// Conditions on the sizes of a program's inputs, all of which are tensors. Safe to use in several threads at once.
class SizeConditions {
 public:
  /// @param conditions  Python's expressions, of which all must be true; `size_0_1` is size 1 of input 0
  /// @param dims  the number of dimensions of each input
  ///
  /// Raises c10::ValueError for what is no such expression.
  SizeConditions(std::vector<std::string> conditions, std::vector<std::size_t> dims);

  /// Whether they hold for what a program is called with.
  bool hold_for(const torch::jit::Stack& arguments) const;

  /// Raises c10::ValueError, with the conditions, unless they hold.
  void check(const torch::jit::Stack& arguments) const;

 private:
  bool have_its_dims(const torch::jit::Stack& arguments) const;

  std::vector<std::string> conditions_;
  std::vector<std::size_t> dims_;
  torch::jit::Code code_;  // of all sizes: whether the conditions hold
  mutable std::mutex mutex_;
  mutable std::set<std::vector<std::int64_t>> known_;  // sizes of all inputs for which they hold
};

}  // namespace it3::detail
