#pragma once

#include <exception>
#include <mutex>
#include <string_view>

#include <ATen/Context.h>

namespace it3::detail {

/// Whether cuDNN refused to differentiate a recurrent layer in eval mode, which is the mode that networks adapt in.
inline bool is_cudnn_in_eval_mode(const std::exception& error) {
  return std::string_view(error.what()).find("cudnn RNN backward can only be called in training mode") !=
         std::string_view::npos;
}

/// Has torch use its own kernels in cuDNN's place while one lives, in any thread.
class WithoutCudnn {
 public:
  WithoutCudnn() {
    const std::scoped_lock lock(mutex_);
    if (count_++ > 0) return;
    before_ = at::globalContext().userEnabledCuDNN();
    at::globalContext().setUserEnabledCuDNN(false);
  }
  ~WithoutCudnn() {
    const std::scoped_lock lock(mutex_);
    if (--count_ == 0) at::globalContext().setUserEnabledCuDNN(before_);
  }
  WithoutCudnn(const WithoutCudnn&) = delete;
  WithoutCudnn& operator=(const WithoutCudnn&) = delete;

 private:
  static inline std::mutex mutex_;
  static inline int count_ = 0;
  static inline bool before_ = true;
};

}  // namespace it3::detail
