#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

namespace serving {

/// What the server counts, for Prometheus. Any thread may call it.
class Metrics {
 public:
  Metrics();

  /// An inference request got an answer of this status.
  void answered(int status);
  /// An inference request was turned away, for one of the reasons queue_full, deadline, connections, shutting_down.
  void rejected(const std::string& reason);
  /// From the moment that an adapted request had arrived until its answer was made.
  void took(double seconds);
  /// A call of the engine has taken these steps on these requests.
  void adapted(std::int64_t steps, std::size_t requests);

  /// All of it in Prometheus' text format.
  std::string text(std::size_t queue_length);

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Counter& steps_;
  prometheus::Gauge& queue_length_;
  prometheus::Histogram& seconds_;
  prometheus::Histogram& together_;
};

}  // namespace serving
