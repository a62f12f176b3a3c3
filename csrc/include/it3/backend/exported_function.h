#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/exported_graph.h>
#include <it3/backend/script_function.h>

namespace it3 {

namespace detail {
class SizeConditions;
}

/// A program of torch.export as one of the functions of an engine: `embed`, a function of the prediction or of
/// prediction and features; `combine`; or `distance`. ScriptFunction is the same for TorchScript. Several threads may
/// call it at the same time.
///
/// @code{.cpp}
/// it3::ExportedGraph program = it3::read_exported_program("distance.pt2", std::nullopt, std::nullopt);
/// it3::ExportedFunction distance(program);
/// assert(distance(y, y).item<double>() == 0);
/// @endcode
class IT3_API ExportedFunction {
 public:
  /// @throws c10::ValueError  unless the program takes one or two tensors; and if it has operations that cannot be run
  explicit ExportedFunction(const ExportedGraph& program);

  /// The result for both tensors; or for `a`, if the program takes one.
  ///
  /// @throws c10::ValueError  for sizes that it was not exported for
  at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) const;

 private:
  ScriptFunction function_;
  std::shared_ptr<const detail::SizeConditions> sizes_;
  bool takes_both_;
};

}  // namespace it3
