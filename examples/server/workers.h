#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "job.h"
#include "metrics.h"
#include "model.h"

namespace serving {

/// Has calls of engines end when the deadlines of all that wait for them have passed. To be called before the first
/// one.
void end_calls_after_deadlines();

/// Threads that answer the jobs of a queue.
class Workers {
 public:
  struct Settings {
    int workers;
    int threads;  // of the CPU, for each
    /// The most samples of different jobs that a call of the model gets, and how long the first one waits for others.
    std::int64_t batch;
    std::chrono::milliseconds wait;
  };

  Workers(Model& model, Jobs& jobs, Metrics& metrics, Settings settings);

  /// Waits until the queue, which has been closed, is empty and all is answered.
  ~Workers();

 private:
  using Group = std::vector<std::shared_ptr<Job>>;

  void work();
  Group gather(std::shared_ptr<Job> first);
  bool answer_together(const Group& group);
  void answer(Job& job);

  Model& model_;
  Jobs& jobs_;
  Metrics& metrics_;
  Settings settings_;
  std::vector<std::thread> threads_;
};

}  // namespace serving
