#include "metrics.h"

#include <prometheus/text_serializer.h>

namespace serving {
namespace {

const prometheus::Histogram::BucketBoundaries seconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                         0.25,  0.5,    1,     2.5,  5,     10};
const prometheus::Histogram::BucketBoundaries powers_of_two = {1, 2, 4, 8, 16, 32, 64, 128};

}  // namespace

Metrics::Metrics()
    : requests_(
          prometheus::BuildCounter()
              .Name("it3_requests_total")
              .Help("Inference requests that were answered, by HTTP's status")
              .Register(registry_)),
      rejected_(
          prometheus::BuildCounter()
              .Name("it3_rejected_total")
              .Help("Inference requests that were turned away, by reason")
              .Register(registry_)),
      steps_(
          prometheus::BuildCounter()
              .Name("it3_adaptation_steps_total")
              .Help("Optimizer steps that calls of the engine have taken")
              .Register(registry_)
              .Add({})),
      queue_length_(
          prometheus::BuildGauge()
              .Name("it3_queue_length")
              .Help("Requests that wait for a worker")
              .Register(registry_)
              .Add({})),
      seconds_(
          prometheus::BuildHistogram()
              .Name("it3_request_duration_seconds")
              .Help("From a request's arrival to its answer, of those that were answered by 200")
              .Register(registry_)
              .Add({}, seconds)),
      together_(
          prometheus::BuildHistogram()
              .Name("it3_requests_per_call")
              .Help("Requests that a call of the engine has answered together")
              .Register(registry_)
              .Add({}, powers_of_two)) {
  for (const char* const reason : {"queue_full", "deadline", "connections", "shutting_down"}) {
    rejected_.Add({{"reason", reason}});  // so that it is there as 0
  }
}

void Metrics::answered(int status) { requests_.Add({{"code", std::to_string(status)}}).Increment(); }

void Metrics::rejected(const std::string& reason) { rejected_.Add({{"reason", reason}}).Increment(); }

void Metrics::took(double duration) { seconds_.Observe(duration); }

void Metrics::adapted(std::int64_t steps, std::size_t requests) {
  steps_.Increment(static_cast<double>(steps));
  together_.Observe(static_cast<double>(requests));
}

std::string Metrics::text(std::size_t queue_length) {
  queue_length_.Set(static_cast<double>(queue_length));
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace serving
