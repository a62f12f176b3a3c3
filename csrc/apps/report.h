#pragma once

#include <cstdint>
#include <string>

#include <it3/backend/saved_engine.h>
#include <it3/engine.h>

namespace it3::apps {

/// What all batches came to.
struct Results {
  std::int64_t samples = 0;
  std::int64_t batches = 0;
  /// The most steps that a batch took.
  std::int64_t steps = 0;
  /// The sum over samples of Adaptation::uncertainty().
  double uncertainty = 0;
  /// Sums over the samples that adapted: of the loss before the first step, and before the last.
  double first_loss = 0;
  double last_loss = 0;
  /// Samples that adapted, and batches before which a collapsed network went back to its start.
  std::int64_t adapted_samples = 0;
  std::int64_t recoveries = 0;
  double seconds = 0;
  std::string output = {};
};

/// What a saved engine is, as JSON.
std::string describe(const SavedEngine& engine);

/// What was done, as JSON or in a line for people.
std::string report(const Results& results, const Engine& engine, bool as_json);

}  // namespace it3::apps
