#pragma once

#include <optional>

#include <ATen/SavedTensorHooks.h>

namespace it3::detail {

/// Keeps hooks of the caller's, such as those of an activation checkpoint around a call, from graphs that are made and
/// differentiated while it lives: they would run the caller's function again, and so this call inside of itself.
class NoSavedTensorHooks {
 public:
  NoSavedTensorHooks() {
    if (at::SavedTensorDefaultHooks::get_tls_state().stack.empty()) return;
    before_ = at::SavedTensorDefaultHooks::get_tls_state();
    at::SavedTensorDefaultHooks::set_tls_state({});
  }
  ~NoSavedTensorHooks() {
    if (before_) at::SavedTensorDefaultHooks::set_tls_state(*before_);
  }
  NoSavedTensorHooks(const NoSavedTensorHooks&) = delete;
  NoSavedTensorHooks& operator=(const NoSavedTensorHooks&) = delete;

 private:
  std::optional<at::impl::SavedTensorDefaultHooksTLS> before_;
};

}  // namespace it3::detail
