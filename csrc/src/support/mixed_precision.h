#pragma once

#include <optional>

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>

namespace it3::detail {

/// Autocast in a dtype, if there is one, while it lives; else as the caller has it. Its cache holds half-precision
/// copies of weights, which are out of date whenever weights change, at both ends of a transaction too.
class MixedPrecision {
 public:
  MixedPrecision(std::optional<at::ScalarType> dtype, at::DeviceType device) : dtype_(dtype), device_(device) {
    at::autocast::clear_cache();
    if (!dtype_) return;
    was_enabled_ = at::autocast::is_autocast_enabled(device_);
    was_dtype_ = at::autocast::get_autocast_dtype(device_);
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, *dtype_);
  }
  ~MixedPrecision() {
    at::autocast::clear_cache();
    if (!dtype_) return;
    at::autocast::set_autocast_enabled(device_, was_enabled_);
    at::autocast::set_autocast_dtype(device_, was_dtype_);
  }
  MixedPrecision(const MixedPrecision&) = delete;
  MixedPrecision& operator=(const MixedPrecision&) = delete;

 private:
  std::optional<at::ScalarType> dtype_;
  at::DeviceType device_;
  bool was_enabled_ = false;
  at::ScalarType was_dtype_ = at::kFloat;
};

}  // namespace it3::detail
