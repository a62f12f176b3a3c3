#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace it3::detail {

/// Whether torch counts the writes to a tensor, as autograd needs. It does not for one that was made in inference mode,
/// also if it was given other data since.
inline bool counts_writes(const at::Tensor& t) { return t.unsafeGetTensorImpl()->version_counter().enabled(); }

/// How often a tensor was written to; 0 where that is not counted.
inline std::int64_t version_of(const at::Tensor& t) { return counts_writes(t) ? t._version() : 0; }

inline void set_version(const at::Tensor& t, std::int64_t version) {
  if (counts_writes(t)) c10::VariableVersion(t.unsafeGetTensorImpl()->version_counter()).set_version(version);
}

}  // namespace it3::detail
