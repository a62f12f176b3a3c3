#pragma once

#include <algorithm>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

namespace it3::detail {

/// Puts the random generators back if it is destroyed by an exception, or always.
class RandomStateGuard {
 public:
  /// Guards the CPU's generator and those of the devices that `tensors` are on.
  template <typename Tensors>
  explicit RandomStateGuard(const Tensors& tensors, bool always = false) : always_(always) {
    save(at::kCPU);
    for (const at::Tensor& t : tensors) {
      if (t.is_cuda()) save(t.device());
    }
  }

  ~RandomStateGuard() {
    if (!always_ && std::uncaught_exceptions() == exceptions_) return;
    for (auto& [generator, state] : states_) generator.set_state(state);
  }

  /// Whether a random number was drawn since.
  bool has_changed() const {
    return std::any_of(states_.begin(), states_.end(), [](const auto& known) {
      return !at::equal(state_of(known.first), known.second);
    });
  }

  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;

 private:
  void save(at::Device device) {
    const at::Generator generator = at::globalContext().defaultGenerator(device);
    for (const auto& [known, state] : states_) {
      if (known == generator) return;
    }
    states_.emplace_back(generator, state_of(generator));
  }

  static at::Tensor state_of(at::Generator generator) {
    const std::scoped_lock lock(generator.mutex());
    return generator.get_state();
  }

  bool always_;
  int exceptions_ = std::uncaught_exceptions();
  std::vector<std::pair<at::Generator, at::Tensor>> states_;
};

}  // namespace it3::detail
