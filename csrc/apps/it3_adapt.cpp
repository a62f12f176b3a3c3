// it3-adapt: adapts a saved engine to a file of inputs and writes the predictions.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <boost/timer/progress_display.hpp>
#include <nlohmann/json.hpp>

#include <it3/it3.h>

#include "arguments.h"
#include "batches.h"
#include "tensor_files.h"

namespace it3::apps {
namespace {

using Json = nlohmann::ordered_json;

/// What an error says, without the stacks of C++ and of TorchScript.
std::string in_one_line(const std::exception& error) {
  const auto* const torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string message = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  constexpr std::string_view cause = "\nRuntimeError: ";
  if (const auto found = message.rfind(cause); found != std::string::npos) message.erase(0, found + cause.size());
  return message.substr(0, message.find('\n'));
}

/// A bar on the error stream, if that is a terminal and there is more than one batch to wait for.
class Progress {
 public:
  explicit Progress(std::int64_t batches) {
    if (batches > 1 && isatty(STDERR_FILENO) == 1) {
      bar_ = std::make_unique<boost::timer::progress_display>(static_cast<unsigned long>(batches), std::cerr);
    }
  }
  void step() {
    if (bar_ != nullptr) ++*bar_;
  }

 private:
  std::unique_ptr<boost::timer::progress_display> bar_;
};

Json to_json(const OptionValue& value) {
  return std::visit(
      [](const auto& v) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::monostate>) {
          return nullptr;
        } else {
          return v;
        }
      },
      value);
}

Json describe(const SavedEngine& engine) {
  Json options;
  for (const auto& [name, value] : engine.options.values()) options[name] = to_json(value);
  const auto* const distance = std::get_if<std::string>(&engine.distance);
  return {
      {"model", engine.notes.model},
      {"layer", engine.layer},
      {"inputs", engine.notes.inputs},
      {"prediction", engine.notes.prediction},
      {"features", engine.notes.features},
      {"distance", distance != nullptr ? *distance : "a function of its own"},
      {"neutral", engine.neutral.defined()
                      ? Json(
                            c10::str(
                                engine.neutral.flatten().sizes(), " ", engine.neutral.min().item<double>(), " to ",
                                engine.neutral.max().item<double>()))
                      : Json()},
      {"options", options}};
}

/// The results of all batches.
struct Results {
  at::Tensor predictions;
  at::Tensor uncertainty;
  /// The mean over samples of the loss before the first and before the last step.
  double first_loss = 0;
  double last_loss = 0;
  std::int64_t samples = 0;
  /// Samples that adapted, and batches before which a collapsed network went back to its start.
  std::int64_t adapted_samples = 0;
  std::int64_t recoveries = 0;
};

/// Warnings as people read them on a terminal.
class PlainWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { std::cerr << "it3-adapt: warning: " << warning.msg() << '\n'; }
};

Results adapt_all(Engine& engine, const Batches& batches, const std::string& save_adapted) {
  std::vector<at::Tensor> predictions, uncertainty;
  Results results;
  Progress progress(batches.count());
  std::int64_t batch_dim = 0;
  for (std::int64_t i = 0; i < batches.count(); ++i) {
    const Adaptation adapted = engine.adapt(batches[i], /*with_details=*/true);
    batch_dim = engine.prediction_layout().batch_of(adapted.prediction.dim());
    predictions.push_back(adapted.prediction.cpu());
    uncertainty.push_back(sample_distances(adapted.second, adapted.first, batch_dim).cpu());
    const std::int64_t samples = uncertainty.back().size(0);
    results.samples += samples;
    results.adapted_samples +=
        adapted.adapted_samples.defined() ? adapted.adapted_samples.sum().item<std::int64_t>() : samples;
    if (adapted.recovered) ++results.recoveries;
    if (adapted.steps() > 0) {
      results.first_loss += static_cast<double>(samples) * adapted.losses[0].mean().item<double>();
      results.last_loss += static_cast<double>(samples) * adapted.loss().mean().item<double>();
    }
    if (!save_adapted.empty() && i + 1 == batches.count()) engine.save_adapted(adapted, save_adapted);
    progress.step();
  }
  results.first_loss /= static_cast<double>(results.samples);
  results.last_loss /= static_cast<double>(results.samples);
  results.predictions = predictions.front().dim() == 0 ? predictions.front() : at::cat(predictions, batch_dim);
  results.uncertainty = at::cat(uncertainty);
  return results;
}

c10::Device device_of(const SavedEngine& saved) {
  const auto parameters = saved.network.parameters();
  return parameters.size() == 0 ? c10::Device(c10::kCPU) : (*parameters.begin()).device();
}

c10::ScalarType floating_point_of(const SavedEngine& saved) {
  for (const auto& parameter : saved.network.parameters()) {
    if (parameter.is_floating_point()) return parameter.scalar_type();
  }
  return at::kFloat;
}

void run(const Arguments& arguments) {
  for (const auto* path : {&arguments.input, &arguments.output, &arguments.uncertainty}) {
    if (!path->empty()) check_extension(*path);
  }
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  const auto device = arguments.device.empty() ? std::nullopt : std::optional<c10::Device>(arguments.device);
  const auto cuda_devices = static_cast<int>(at::getNumGPUs());
  TORCH_CHECK(
      !device || !device->is_cuda() || std::max<int>(device->index(), 0) < cuda_devices, "there is no device ",
      arguments.device, "; this machine, with this build of torch, has ", cuda_devices, " CUDA devices");
  SavedEngine saved = load_engine(arguments.engine, device);
  if (!arguments.layer.empty()) saved.layer = arguments.layer;
  saved.options.override_with(arguments.options);
  if (arguments.describe) {
    std::cout << describe(saved).dump(2) << '\n';
    return;
  }

  if (arguments.in_dims) saved.in_dims = arguments.in_dims;
  const auto batches_of = [&](const std::string& path) {
    return Batches(
        read_file(path), arguments.batch_size, device_of(saved), floating_point_of(saved), saved.in_dims,
        saved.prediction_layout);
  };
  const Batches batches = batches_of(arguments.input);
  TORCH_CHECK_VALUE(
      arguments.save_adapted.empty() || !saved.options.copy_model || batches.count() == 1,
      "--save-adapted needs --online, as each of ", batches.count(), " batches gives other weights");
  const auto start = std::chrono::steady_clock::now();
  Engine engine(saved);
  Results results;
  try {
    if (!arguments.calibrate.empty()) {
      const Batches clean = batches_of(arguments.calibrate);
      std::vector<Inputs> all;
      all.reserve(static_cast<std::size_t>(clean.count()));
      for (std::int64_t i = 0; i < clean.count(); ++i) all.push_back(clean[i]);
      engine.calibrate(all, arguments.quantile);
    }
    results = adapt_all(engine, batches, arguments.save_adapted);
  } catch (const std::exception& error) {
    std::string inputs;
    for (const auto& input : saved.notes.inputs) inputs += (inputs.empty() ? "" : ", ") + input;
    TORCH_CHECK(false, in_one_line(error), " (the engine was saved with the inputs ", inputs, ")");
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  TensorFile predictions(arguments.output, results.predictions);
  std::unique_ptr<TensorFile> uncertainty;
  if (!arguments.uncertainty.empty()) {
    uncertainty = std::make_unique<TensorFile>(arguments.uncertainty, results.uncertainty);
    uncertainty->commit();
  }
  predictions.commit();

  const bool adapts = saved.options.num_steps > 0;
  const double mean = results.uncertainty.mean().item<double>();
  const bool is_selective = engine.options.threshold.has_value();
  const bool is_online = !saved.options.copy_model;
  if (arguments.json) {
    Json report = {
        {"samples", results.samples},
        {"batches", batches.count()},
        {"steps", saved.options.num_steps},
        {"loss_before_first_step", adapts ? Json(results.first_loss) : Json()},
        {"loss_before_last_step", adapts ? Json(results.last_loss) : Json()},
        {"mean_uncertainty", mean},
        {"seconds", seconds.count()},
        {"output", arguments.output}};
    if (is_selective) report["threshold"] = *engine.options.threshold;
    if (is_selective) report["adapted_samples"] = results.adapted_samples;
    if (is_online) report["drift"] = engine.drift().relative;
    if (saved.options.recovery_factor) report["recoveries"] = results.recoveries;
    std::cout << report.dump(2) << '\n';
    return;
  }
  std::cout << results.samples << " samples, " << batches.count() << (batches.count() == 1 ? " batch" : " batches")
            << ", " << saved.options.num_steps << " steps each";
  if (adapts)
    std::cout << ": loss " << results.first_loss << " before the first, " << results.last_loss << " before the last";
  if (is_selective)
    std::cout << "; " << results.adapted_samples << " samples above " << *engine.options.threshold << " adapted";
  if (is_online) std::cout << "; weights moved by " << 100 * engine.drift().relative << " %";
  if (results.recoveries > 0) std::cout << "; recovered " << results.recoveries << " times";
  std::cout << "; mean |y1 - y0| " << mean << "; " << seconds.count() << " s\n";
}

}  // namespace
}  // namespace it3::apps

int main(int argc, char** argv) {  // NOLINT(misc-const-correctness): the language has it so
  // Keeps memory that a step has freed for the next one; glibc would give it back and fault it in anew.
  constexpr int bytes = 1'000'000'000;
  mallopt(M_MMAP_THRESHOLD, bytes);
  mallopt(M_TRIM_THRESHOLD, bytes);
  const auto [arguments, exit_code] = it3::apps::parse_arguments(argc, argv);
  if (exit_code) return *exit_code;
  it3::apps::PlainWarnings warnings;
  const c10::WarningUtils::WarningHandlerGuard warning_guard(&warnings);
  try {
    it3::apps::run(arguments);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "it3-adapt: " << it3::apps::in_one_line(error) << '\n';
    return 1;
  }
}
