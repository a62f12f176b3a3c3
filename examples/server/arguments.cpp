#include "arguments.h"

#include <algorithm>
#include <iostream>

#include <c10/util/Exception.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace serving {
namespace {

using Json = nlohmann::json;

/// A value as JSON writes it; what is none, such as adam, is a string.
it3::OptionValue value_from(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto are = [&](bool (Json::*is)() const noexcept) {
    return json.is_array() && std::all_of(json.begin(), json.end(), [is](const Json& item) { return (item.*is)(); });
  };
  if (json.is_null()) return std::monostate{};
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<std::int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (are(&Json::is_number)) return json.get<std::vector<double>>();
  if (are(&Json::is_string)) return json.get<std::vector<std::string>>();
  return text;
}

std::pair<std::string, it3::OptionValue> setting_from(const std::string& text) {
  const auto sign = text.find('=');
  if (sign == std::string::npos) throw CLI::ValidationError("--set " + text, "must be NAME=VALUE");
  std::pair<std::string, it3::OptionValue> setting = {text.substr(0, sign), value_from(text.substr(sign + 1))};
  try {
    it3::Options().set(setting.first, setting.second);  // only to check it
  } catch (const c10::Error& error) {
    throw CLI::ValidationError("--set " + text, error.what_without_backtrace());
  }
  return setting;
}

constexpr const char* description =
    "Serves a saved IT3 engine over HTTP by the Open Inference Protocol (KServe's V2). The samples of a request adapt\n"
    "the network together, and the next request starts from the saved weights again.";
constexpr const char* footer =
    "Paths: POST /v2/models/NAME/infer; GET /v2/models/NAME, /v2/health/live, /v2/health/ready and /metrics.\n"
    "SIGTERM ends the server when all requests that it has taken are answered; a second one ends it at once.\n"
    "Exit codes: 0 ended by a signal, 1 failed, 2 wrong command line.";

}  // namespace

ParsedArguments parse_arguments(int argc, const char* const* argv) {
  ParsedArguments parsed;
  Arguments& arguments = parsed.arguments;
  CLI::App app(description, "it3-server");
  app.footer(footer);
  app.option_defaults()->always_capture_default();
  const auto milliseconds =
      [&app](const char* flag, std::chrono::milliseconds& value, std::int64_t least, const char* help) {
        const auto set = [&value](std::int64_t count) { value = std::chrono::milliseconds(count); };
        app.add_option_function<std::int64_t>(flag, set, help)
            ->default_str(std::to_string(value.count()))
            ->check(CLI::Range(least, std::int64_t{3'600'000}))
            ->type_name("MS");
      };

  app.add_option("engine", arguments.engine, "The file that engine.save() wrote")
      ->required()
      ->always_capture_default(false)
      ->check(CLI::ExistingFile);
  app.add_option("--name", arguments.name, "The model's name in paths")->check([](const std::string& name) {
    const bool is_plain = name.find_first_of("/?#% ") == std::string::npos && !name.empty();
    return is_plain ? "" : "must be a name without spaces and / ? # %";
  });
  app.add_option("--host", arguments.host, "The address to listen at");
  app.add_option("--port", arguments.port, "The port; 0 for a free one")->check(CLI::Range(0, 65535));
  app.add_option("--device", arguments.device, "Where to run, such as cpu or cuda:0; as saved, if not given");
  app.add_option("--workers", arguments.workers, "Requests that adapt at a time")->check(CLI::Range(1, 1024));
  app.add_option("--threads", arguments.threads, "CPU threads of each worker")->check(CLI::Range(1, 1024));
  app.add_option("--queue", arguments.queue, "Requests that wait at most; others are answered by 429 at once")
      ->check(CLI::Range(1, 1'000'000));
  milliseconds("--deadline", arguments.deadline, 1, "After so long a request is answered by 504; it may ask for less");
  app.add_option("--batch", arguments.batch, "Samples of different requests that run together; needs per_sample")
      ->check(CLI::Range(1, 1'000'000));
  milliseconds("--wait", arguments.wait, 0, "With --batch: how long a sample waits for others");
  app.add_option("--connections", arguments.connections, "Connections at a time; others are answered by 503")
      ->check(CLI::Range(1, 16'384));
  app.add_option("--max-body", arguments.max_body, "The largest body of a request, in MiB")->check(CLI::Range(1, 4096));
  milliseconds(
      "--grace", arguments.grace, 0, "After SIGTERM: how long requests are still taken, while readiness is gone");
  app.add_option_function<std::vector<std::string>>(
         "--set",
         [&](const std::vector<std::string>& settings) {
           for (const auto& setting : settings) arguments.options.push_back(setting_from(setting));
         },
         "An option of the engine, as num_steps=1, lr=1e-3 or anchor=frozen")
      ->type_name("NAME=VALUE")
      ->always_capture_default(false)
      ->allow_extra_args(false);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // for help
    parsed.exit_code = app.exit(asked);
  } catch (const CLI::ParseError& error) {
    std::cerr << "it3-server: " << error.what() << ". it3-server --help tells more\n";
    parsed.exit_code = 2;
  }
  return parsed;
}

}  // namespace serving
