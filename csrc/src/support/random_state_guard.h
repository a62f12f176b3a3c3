#pragma once

#include <algorithm>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace it3::detail {

/// The state of a random generator at one moment. Of the CPU's it is copied, as making a tensor of it takes as long as
/// an operation.
class RandomState {
 public:
  explicit RandomState(at::Generator generator) : generator_(std::move(generator)) {
    const std::scoped_lock lock(generator_.mutex());
    if (at::CPUGeneratorImpl* const own = cpu()) {
      of_cpu_ = {own->engine(), own->next_float_normal_sample(), own->next_double_normal_sample()};
    } else {
      other_ = generator_.get_state();
    }
  }

  void put_back() {
    const std::scoped_lock lock(generator_.mutex());
    if (of_cpu_) {
      at::CPUGeneratorImpl* const own = cpu();
      own->set_engine(of_cpu_->engine);
      own->set_next_float_normal_sample(of_cpu_->next_float);
      own->set_next_double_normal_sample(of_cpu_->next_double);
    } else {
      generator_.set_state(other_);
    }
  }

  /// Whether a random number was drawn since.
  bool has_changed() const {
    const RandomState now(generator_);
    if (of_cpu_ && now.of_cpu_) return !of_cpu_->equals(*now.of_cpu_);
    return !at::equal(now.other_, other_);
  }

  bool is_of(const at::Generator& generator) const { return generator_ == generator; }

 private:
  struct OfCpu {
    at::mt19937 engine;
    std::optional<float> next_float;
    std::optional<double> next_double;

    bool equals(const OfCpu& other) const {
      const at::mt19937_data_pod a = engine.data(), b = other.engine.data();
      return a.next_ == b.next_ && a.left_ == b.left_ && a.state_ == b.state_ && next_float == other.next_float &&
             next_double == other.next_double;
    }
  };

  at::CPUGeneratorImpl* cpu() const {
    return generator_.device().is_cpu() ? generator_.get<at::CPUGeneratorImpl>() : nullptr;
  }

  at::Generator generator_;
  std::optional<OfCpu> of_cpu_;
  at::Tensor other_;
};

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
    for (RandomState& state : states_) state.put_back();
  }

  /// Whether a random number was drawn since.
  bool has_changed() const {
    return std::any_of(states_.begin(), states_.end(), [](const RandomState& state) { return state.has_changed(); });
  }

  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;

 private:
  void save(at::Device device) {
    const at::Generator& generator = at::globalContext().defaultGenerator(device);
    for (const RandomState& known : states_) {
      if (known.is_of(generator)) return;
    }
    states_.emplace_back(generator);
  }

  bool always_;
  int exceptions_ = std::uncaught_exceptions();
  std::vector<RandomState> states_;
};

}  // namespace it3::detail
