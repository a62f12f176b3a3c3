#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/inputs.h>

namespace it3::detail {

/// The inputs of several passes by a network that may write to them: each pass gets the values that were given, and the
/// caller's tensors end as one pass leaves them.
class PassInputs {
 public:
  /// @param callers  the caller's tensors, which are written to by finish() alone
  /// @param given  the same for the passes: detached, for example
  /// @param may_be_written  whether to be on guard; if not, the passes get the given tensors
  PassInputs(const Inputs& callers, const Inputs& given, bool may_be_written)
      : callers_(callers), given_(given), may_be_written_(may_be_written) {}

  /// What the next pass runs on.
  const Inputs& next();

  /// Writes to the caller's tensors what the first pass wrote to its own. To be called when nothing can fail any more.
  void finish();

 private:
  /// Whether the pass before wrote to what it was given.
  bool were_written() const;

  const Inputs& callers_;
  const Inputs& given_;
  bool may_be_written_;
  Inputs own_;
  std::vector<at::Tensor> own_tensors_;
  std::vector<std::int64_t> versions_;
  std::vector<at::Tensor> after_first_;  // defined where the first pass wrote
  bool has_run_ = false;
};

}  // namespace it3::detail
