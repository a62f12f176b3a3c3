#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <it3/options.h>

namespace serving {

/// What the command line says.
struct Arguments {
  std::string engine = {};
  std::string name = "it3";
  std::string host = "0.0.0.0";
  int port = 8080;
  std::string device = {};
  int workers = 1;
  int threads = 1;
  std::size_t queue = 64;
  std::chrono::milliseconds deadline{5000};
  /// Samples of different requests that are computed together, and for how long a worker waits for them.
  std::int64_t batch = 1;
  std::chrono::milliseconds wait{2};
  std::size_t connections = 512;
  std::size_t max_body = 16;  // MiB
  std::chrono::milliseconds grace{1000};
  /// The engine's options that replace those saved with it.
  std::vector<std::pair<std::string, it3::OptionValue>> options = {};
};

/// Reads the command line. If it asks for help, or is wrong, that has been said and the exit code is set instead.
struct ParsedArguments {
  Arguments arguments;
  std::optional<int> exit_code;
};
ParsedArguments parse_arguments(int argc, const char* const* argv);

}  // namespace serving
