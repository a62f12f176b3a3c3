#pragma once

#include <memory>

#include <ATen/FuncTorchTLS.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace it3::detail {

/// While it lives, operations run as outside of a vmap.
class WithoutVmap {
 public:
  WithoutVmap();
  ~WithoutVmap();
  WithoutVmap(const WithoutVmap&) = delete;
  WithoutVmap& operator=(const WithoutVmap&) = delete;

 private:
  c10::impl::ExcludeDispatchKeyGuard guard_;
  std::unique_ptr<at::functorch::FuncTorchTLSBase> layers_;  // with any of them torch refuses custom gradients
};

/// Operations see one sample of each wrapped tensor, and run on all samples at once, while it lives (functorch's vmap).
/// Autograd records them outside, on the tensors of all samples. One may live inside of another, but unwrap() of the
/// inner one cannot take what the outer one has wrapped.
class Vmap {
 public:
  explicit Vmap(c10::SymInt samples);
  ~Vmap();
  Vmap(const Vmap&) = delete;
  Vmap& operator=(const Vmap&) = delete;

  /// (samples, ...) -> (...), one sample of it, in the innermost vmap.
  static at::Tensor wrap(const at::Tensor& stacked);

  /// Whether a tensor is one sample of what the innermost vmap runs on.
  static bool is_wrapped(const at::Tensor& t);

  /// (...) -> (samples, ...) in the innermost vmap; what is the same for all samples is repeated.
  static at::Tensor unwrap(const at::Tensor& sample);
};

}  // namespace it3::detail
