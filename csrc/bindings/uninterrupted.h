#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <ATen/ThreadLocalState.h>
#include <torch/csrc/utils/pybind.h>

#include "thread_hook.h"

namespace it3::python {

/// Lets Python code of torch's run to its end, which would leave torch changed if it were ended halfway: while it
/// lives, signals such as a Ctrl-C wait, nothing traces the code, and the TorchDispatchModes of others are off. When it
/// is destroyed, all of torch's state of this thread is as it was, and the signals that have come are delivered. Needs
/// the GIL.
class Uninterrupted {
 public:
  Uninterrupted();
  ~Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;

 private:
  void give_back() noexcept;

  const at::ThreadLocalState before_;
  const ThreadHook tracer_ = tracer_of_thread();
  std::vector<std::pair<int, py::object>> handlers_;  // of signals
  std::shared_ptr<std::vector<int>> come_ = std::make_shared<std::vector<int>>();
};

}  // namespace it3::python
