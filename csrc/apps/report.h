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
  /// Sums over samples: of Adaptation::uncertainty(), and of the loss before the first and before the last step.
  double uncertainty = 0;
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
