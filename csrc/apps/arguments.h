#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <it3/backend/samples.h>
#include <it3/options.h>

namespace it3::apps {

/// What it3-adapt was told to do.
struct Arguments {
  std::string engine;
  std::string input;
  std::string output;
  std::string uncertainty;
  std::string save_adapted;
  std::string calibrate;
  double quantile = 0.95;
  std::string layer;
  std::string device;
  /// Changes of the engine's own options.
  std::vector<std::pair<std::string, OptionValue>> options;
  /// Along which dimensions of the inputs the samples lie, if the engine's own is not meant.
  std::optional<InDims> in_dims;
  /// Samples a batch; 0 for all at once.
  std::int64_t batch_size = 0;
  int threads = 0;
  std::uint64_t seed = 0;
  bool describe = false;
  bool resume = false;
  bool json = false;
  /// What was given that decides over the results, by its names on the command line.
  std::map<std::string, std::string> given;
};

/// Where --resume notes what has been done.
inline std::string checkpoint_path(const Arguments& arguments) { return arguments.output + ".resume"; }

/// Reads the command line. If it asks for help, or is wrong, that has been said and the exit code is set instead.
struct ParsedArguments {
  Arguments arguments;
  std::optional<int> exit_code;
};
ParsedArguments parse_arguments(int argc, const char* const* argv);

/// The exit code of a command line that is wrong.
inline constexpr int usage_error = 2;

}  // namespace it3::apps
