#include "arguments.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <thread>

#include <ATen/core/Dict.h>
#include <c10/util/Exception.h>
#include <CLI/CLI.hpp>

#include <it3/options.h>

#include "version.h"

namespace it3::apps {
namespace {

template <typename Number>
std::optional<Number> parse(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts = {""};
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

/// A value as it is written on a command line: true, 3, 1e-3, 0.9,0.999, adam, a.*,b.*
OptionValue value_from(const std::string& text) {
  if (text == "none") return std::monostate{};
  if (text == "true" || text == "false") return text == "true";
  if (const auto whole = parse<std::int64_t>(text)) return *whole;
  if (const auto number = parse<double>(text)) return *number;
  auto parts = split(text);
  if (parts.size() == 1) return text;
  std::vector<double> numbers;
  for (const auto& part : parts) {
    if (const auto number = parse<double>(part)) numbers.push_back(*number);
  }
  if (numbers.size() == parts.size()) return numbers;
  return parts;
}

/// 0, or 0,none of positional inputs, or x=0,y=none of keywords.
InDims in_dims_from(const std::string& text) {
  const auto dim_from = [&](const std::string& part) -> InDims {
    if (part == "none") return {};
    const auto dim = parse<std::int64_t>(part);
    if (!dim) {
      throw CLI::ValidationError(
          "--in-dims " + text,
          "must be one dimension (0), one for each positional input (0,none) or for each keyword (x=0,y=none)");
    }
    return *dim;
  };
  const auto parts = split(text);
  if (text.find('=') == std::string::npos && parts.size() == 1) return dim_from(text);
  std::vector<c10::IValue> positional;
  const c10::impl::GenericDict keywords(c10::StringType::get(), c10::AnyType::get());
  for (const auto& part : parts) {
    const auto sign = part.find('=');
    if (sign == std::string::npos) {
      positional.push_back(dim_from(part));
    } else {
      keywords.insert(part.substr(0, sign), dim_from(part.substr(sign + 1)));
    }
  }
  if (positional.empty()) return keywords;
  if (!keywords.empty()) throw CLI::ValidationError("--in-dims " + text, "mixes positional inputs and keywords");
  return c10::ivalue::Tuple::create(std::move(positional));
}

/// Where a file is, through links, as far as it is there yet.
std::filesystem::path place_of(const std::string& path) {
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::absolute(path, error);
  const std::filesystem::path found = std::filesystem::weakly_canonical(whole, error);
  return error ? whole : found;  // of names that no file can have
}

bool are_one_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return std::filesystem::equivalent(a, b, ignored) || place_of(a) == place_of(b);
}

/// Raises CLI::ValidationError if what is written would replace something else of this call.
void check_files(const Arguments& arguments) {
  using File = std::pair<const char*, std::string>;
  std::vector<File> files = {
      {"--output", arguments.output},
      {"--uncertainty", arguments.uncertainty},
      {"--save-adapted", arguments.save_adapted}};
  if (arguments.resume) files.emplace_back("--resume", checkpoint_path(arguments));
  const std::size_t written = files.size();
  files.emplace_back("the engine", arguments.engine);
  files.emplace_back("--input", arguments.input);
  files.emplace_back("--calibrate", arguments.calibrate);
  for (std::size_t i = 0; i < written; ++i) {
    for (std::size_t j = i + 1; j < files.size(); ++j) {
      const auto& [name, path] = files[i];
      const auto& [other, other_path] = files[j];
      if (path.empty() || other_path.empty() || !are_one_file(path, other_path)) continue;
      throw CLI::ValidationError(
          std::string(name) + " " + path,
          std::string("this file would replace that of ") + other + "; give another name");
    }
  }
}

/// Those given options that a run which goes on has to share with the one before.
std::map<std::string, std::string> given_options(const CLI::App& app) {
  std::map<std::string, std::string> given;
  for (const CLI::Option* const option : app.get_options()) {
    const std::string name = option->get_name();
    const bool may_differ = name == "--threads" || name == "--json" || name == "--resume";
    if (!option->empty() && !may_differ) given.emplace(name, CLI::detail::join(option->results(), " "));
  }
  return given;
}

/// As many threads as may be asked for.
int most_threads() { return std::max(64, 2 * static_cast<int>(std::thread::hardware_concurrency())); }

constexpr const char* description =
    "Adapts a saved IT3 engine to unlabeled inputs and writes the adapted network's predictions.\n"
    "Each batch takes a few optimizer steps on the distance between the network's two predictions (IT3, arXiv\n"
    "2410.04201). Options that are not given here keep the values saved with the engine; --describe shows them.";

/// What an option is, in short, and what it takes.
std::string option_help(std::string_view name) {
  const auto& all = option_infos();
  const auto info = std::find_if(all.begin(), all.end(), [&](const OptionInfo& i) { return i.name == name; });
  std::string text = info->documentation;
  text.resize(std::min({text.find(": "), text.find("; "), text.find(". "), text.size() - 1}));
  return info->type == "bool" ? text : text + " (" + info->accepted + ")";
}

/// The engine's options, for --set.
std::string options_help() {
  std::string text = "Options of the engine, for --set, with their defaults (none: unset):\n";
  for (const OptionInfo& info : option_infos()) {
    const bool is_none = info.default_text == "None";
    std::string value = is_none ? "none" : info.default_text;
    std::erase(value, '\'');
    if (value == "True" || value == "False") value[0] = static_cast<char>(std::tolower(value[0]));
    if (value == "[all]") value = "all";
    text += "  " + info.name + "=" + value + ": " + info.accepted + "\n";
  }
  return text + "The page on options in it3's documentation, docs/how_to/options.md, tells more.\n\n";
}

constexpr const char* footer =
    "Files: NAME.npy holds one array. NAME.pt, as torch.save writes it, holds a tensor, a tuple or list of tensors\n"
    "(positional arguments) or a dictionary (keywords). Floating-point inputs are converted to the network's dtype.\n"
    "Outputs appear under their names when they are complete; half precision becomes float32 in .npy. Files in .npy\n"
    "are read and written batch by batch, and may be larger than memory.\n"
    "\n"
    "With --resume, a run that was killed or failed leaves OUTPUT.resume and, for each output, NAME.partial-NUMBER.\n"
    "The same command line, word for word, goes on from them, and removes them; where OUTPUT.resume is of another "
    "one,\n"
    "or files have changed, it says so. With as many threads, results are those of a run that was never interrupted.\n"
    "\n"
    "Examples:\n"
    "  it3-adapt engine.pt --input x.npy --output y.npy\n"
    "  it3-adapt engine.pt --input x.npy --output y.npy --batch-size 64 --steps 1 --lr 1e-4 --uncertainty u.npy\n"
    "  it3-adapt engine.pt --input stream.npy --output y.npy --batch-size 32 --online --save-adapted adapted.pt\n"
    "  it3-adapt engine.pt --describe\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong command line.";

}  // namespace

ParsedArguments parse_arguments(int argc, const char* const* argv) {
  ParsedArguments parsed;
  Arguments& arguments = parsed.arguments;
  CLI::App app(description, "it3-adapt");
  app.footer(options_help() + footer);
  app.set_version_flag("--version", std::string("it3-adapt ") + version);
  app.get_formatter()->column_width(34);

  app.add_option("engine", arguments.engine, "The file that engine.save() wrote")->required()->type_name("ENGINE");
  const auto* const describe =
      app.add_flag("--describe", arguments.describe, "Tell what the engine is, and adapt nothing");
  const auto* const input = app.add_option("-i,--input", arguments.input, "Inputs, .npy or .pt")->type_name("FILE");
  const auto* const output =
      app.add_option("-o,--output", arguments.output, "Predictions, .npy or .pt")->type_name("FILE");
  app.add_option(
         "--uncertainty", arguments.uncertainty, "Uncertainty of the adapted network about each sample, .npy or .pt")
      ->type_name("FILE");
  app.add_option(
         "--save-adapted", arguments.save_adapted, "The adapted network as TorchScript; needs --online or one batch")
      ->type_name("FILE");

  const auto add = [&arguments](const std::string& name, const OptionValue& value) {
    try {
      Options().set(name, value);  // only to check it
    } catch (const c10::Error& error) {
      throw CLI::ValidationError(error.what_without_backtrace());
    }
    arguments.options.emplace_back(name, value);
  };
  const auto set = [&](const char* flag, const char* name, const char* type) {
    app.add_option_function<std::string>(
           flag, [add, name](const std::string& text) { add(name, value_from(text)); }, option_help(name))
        ->type_name(type);
  };
  set("--steps", "num_steps", "N");
  set("--lr", "lr", "X");
  set("--optimizer", "optimizer_name", "NAME");
  set("--anchor", "anchor", "NAME");
  set("--norm-statistics", "norm_statistics", "NAME");
  app.add_flag_callback("--per-sample", [add] { add("per_sample", true); }, option_help("per_sample"));
  app.add_option_function<std::vector<std::string>>(
         "--set",
         [&](const std::vector<std::string>& settings) {
           for (const auto& setting : settings) {
             const auto sign = setting.find('=');
             if (sign == std::string::npos) throw CLI::ValidationError("--set " + setting, "must be NAME=VALUE");
             add(setting.substr(0, sign), value_from(setting.substr(sign + 1)));
           }
         },
         "An option of the engine, as momentum=0.9, betas=0.9,0.99 or parameters=norm; see below")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  auto* const threshold_of_clean =
      app.add_option(
             "--calibrate", arguments.calibrate, "Clean inputs; adapt only samples less sure than most of these")
          ->type_name("FILE");
  app.add_option(
         "--quantile", arguments.quantile,
         "With --calibrate: the share of the clean inputs that shall not adapt; default 0.95")
      ->check(CLI::Range(0., 1.))
      ->check([](const std::string& text) { return std::isnan(parse<double>(text).value_or(0)) ? "is no number" : ""; })
      ->needs(threshold_of_clean)
      ->type_name("Q");
  app.add_option("--layer", arguments.layer, "Inject at another layer, with as many channels")->type_name("NAME");

  app.add_option("--batch-size", arguments.batch_size, "Samples that adapt together; all, if not given")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app.add_option_function<std::string>(
         "--in-dims", [&](const std::string& text) { arguments.in_dims = in_dims_from(text); },
         "Along which dimension of each input the samples lie: 0, or 0,none, or x=0,y=none; none: shared by all")
      ->type_name("DIMS");
  const auto keep = [&](bool copy) { return [add, copy](std::int64_t) { add("copy_model", copy); }; };
  auto* const reset =
      app.add_flag_function("--per-batch-reset", keep(true), "Every batch starts from the saved weights");
  app.add_flag_function("--online", keep(false), "Weights and optimizer state go on from batch to batch")
      ->excludes(reset);

  app.add_option("--device", arguments.device, "Where to run, such as cpu or cuda:0")->type_name("DEVICE");
  app.add_option("--threads", arguments.threads, "CPU threads")->check(CLI::Range(1, most_threads()))->type_name("N");
  app.add_option(
         "--seed", arguments.seed, "Of the random numbers that restore_probability or the network draws; default 0")
      ->type_name("N");
  app.add_flag(
      "--resume", arguments.resume,
      "Note in OUTPUT.resume what is done, so that after a kill the same command goes on from there");
  app.add_flag("--json", arguments.json, "Report as JSON");

  try {
    app.parse(argc, argv);
    if (!arguments.describe && (input->empty() || output->empty())) {
      throw CLI::RequiredError("--input and --output, or --describe,");
    }
    if (arguments.describe && !(input->empty() && output->empty())) {
      throw CLI::ExcludesError(describe->get_name(), "--input and --output");
    }
    check_files(arguments);
    arguments.given = given_options(app);
  } catch (const CLI::Success& asked) {  // for help or the version
    parsed.exit_code = app.exit(asked);
  } catch (const CLI::ParseError& error) {
    std::cerr << "it3-adapt: " << error.what() << ". it3-adapt --help tells more\n";
    parsed.exit_code = usage_error;
  }
  return parsed;
}

}  // namespace it3::apps
