#pragma once

#include <mutex>
#include <vector>

#include <ATen/Context.h>

namespace it3::detail {

/// Has CUDA compute float32 without TF32 while one lives, in any thread, as torch has one setting for all.
class FullFloat32 {
 public:
  FullFloat32() {
    const std::scoped_lock lock(mutex_);
    if (count_++ > 0) return;
    auto& context = at::globalContext();
    of_all_ = context.float32Precision(cuda, at::Float32Op::ALL);
    context.setFloat32Precision(cuda, at::Float32Op::ALL, at::Float32Precision::IEEE);
    for (const auto op : {at::Float32Op::CONV, at::Float32Op::RNN, at::Float32Op::MATMUL}) {
      if (context.float32Precision(cuda, op) != at::Float32Precision::TF32) continue;  // inherits, or is full already
      own_.push_back(op);
      context.setFloat32Precision(cuda, op, at::Float32Precision::IEEE);
    }
  }
  ~FullFloat32() {
    const std::scoped_lock lock(mutex_);
    if (--count_ > 0) return;
    auto& context = at::globalContext();
    const bool inherits = of_all_ == context.float32Precision(at::Float32Backend::GENERIC, at::Float32Op::ALL);
    context.setFloat32Precision(cuda, at::Float32Op::ALL, inherits ? at::Float32Precision::NONE : of_all_);
    for (const auto op : own_) context.setFloat32Precision(cuda, op, at::Float32Precision::TF32);
    own_.clear();
  }
  FullFloat32(const FullFloat32&) = delete;
  FullFloat32& operator=(const FullFloat32&) = delete;

 private:
  static constexpr auto cuda = at::Float32Backend::CUDA;
  static inline std::mutex mutex_;
  static inline int count_ = 0;
  static inline at::Float32Precision of_all_ = at::Float32Precision::NONE;
  static inline std::vector<at::Float32Op> own_;
};

}  // namespace it3::detail
