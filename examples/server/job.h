#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

#include "bounded_queue.h"

namespace serving {

using Clock = std::chrono::steady_clock;

/// What a worker has come to, on the CPU.
struct Answer {
  at::Tensor prediction;
  at::Tensor uncertainty;  // undefined where nobody wants it
};

/// Why there is no answer, as HTTP's status and in words.
struct Failure {
  int status;
  std::string text;
};

using Outcome = std::variant<Answer, Failure>;

/// Ends a call that nobody waits for any more.
struct DeadlinePassed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A request on its way to a worker, who keeps the promise once.
struct Job {
  std::vector<at::Tensor> inputs;  // in the order of Model::inputs()
  bool wants_uncertainty;
  Clock::time_point deadline;
  std::promise<Outcome> outcome = {};
};

using Jobs = BoundedQueue<std::shared_ptr<Job>>;

}  // namespace serving
