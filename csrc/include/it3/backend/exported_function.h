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

/// A program of torch.export as one of Method's functions, as ScriptFunction is for TorchScript: as `embed` (of the
/// prediction, or of prediction and features), as `combine` and as `distance`. Safe to call in several threads at once.
class IT3_API ExportedFunction {
 public:
  /// Raises c10::ValueError unless the program takes one tensor or two, and for operations that cannot be run.
  explicit ExportedFunction(const ExportedGraph& program);

  /// Of both, or of `a` if it takes one. Raises c10::ValueError for sizes that it was not exported for.
  at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) const;

 private:
  ScriptFunction function_;
  std::shared_ptr<const detail::SizeConditions> sizes_;
  bool takes_both_;
};

}  // namespace it3
