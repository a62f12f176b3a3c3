#pragma once

#include <utility>

#include <it3/backend/online.h>

namespace it3::detail {

/// Puts back what an engine remembers of its online calls, unless the call comes to its end.
class OnlineGuard {
 public:
  explicit OnlineGuard(Online* online) : online_(online) {
    if (online_ != nullptr) before_ = online_->state();
  }
  ~OnlineGuard() {
    if (online_ != nullptr) *online_ = Online(std::move(before_));
  }
  OnlineGuard(const OnlineGuard&) = delete;
  OnlineGuard& operator=(const OnlineGuard&) = delete;

  void keep() { online_ = nullptr; }

 private:
  Online* online_;
  Online::State before_;
};

}  // namespace it3::detail
