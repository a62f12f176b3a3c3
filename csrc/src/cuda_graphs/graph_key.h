#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <it3/backend/inputs.h>
#include <it3/method.h>
#include <it3/network.h>
#include <it3/options.h>

namespace it3::detail {

/// All that decides which operations on which memory a call does, beside the memory of the inputs.
struct GraphKey {
  Options options;
  bool with_details = false;
  std::optional<std::int64_t> samples;
  std::vector<std::int64_t> context;  // what torch does with the same operations
  std::uint64_t program = 0;
  std::vector<std::int64_t> tensors;  // what they look like, and where those lie that are no inputs
  std::string others;                 // the inputs, tensors left out
  std::string distance;               // its name
  Layout prediction_layout = {};
  bool feeds_probabilities = false;

  bool operator==(const GraphKey&) const = default;
};

/// The key of a call, or why it is never recorded.
std::variant<std::string, GraphKey> graph_key(
    const Network& network,
    const Method& method,
    const Options& options,
    const Inputs& inputs,
    bool with_details,
    std::optional<std::int64_t> samples);

}  // namespace it3::detail
