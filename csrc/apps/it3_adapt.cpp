// it3-adapt: adapts a saved engine to a file of inputs and writes the predictions.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <boost/timer/progress_display.hpp>

#include <it3/backend/uncertainty.h>
#include <it3/it3.h>

#include "arguments.h"
#include "batches.h"
#include "report.h"
#include "support/error_text.h"
#include "support/nearest_name.h"
#include "tensor_files.h"

namespace it3::apps {
namespace {

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

/// The files that are written.
struct Outputs {
  TensorFile predictions;
  std::optional<TensorFile> uncertainty;

  /// Writes all, before commit() has any of them appear.
  void finish() {
    predictions.finish();
    if (uncertainty) uncertainty->finish();
  }
  void commit() {
    if (uncertainty) uncertainty->commit();
    predictions.commit();
  }
};

/// Warnings as people read them on a terminal.
class PlainWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { std::cerr << "it3-adapt: warning: " << warning.msg() << '\n'; }
};

/// The signal that asked for an end, such as that of Ctrl-C; a second one ends at once.
volatile std::sig_atomic_t asked_to_end = 0;
void ask_to_end(int signal) {
  asked_to_end = signal;
  std::signal(signal, SIG_DFL);
}

/// Raises c10::Error when the end was asked for: files that are not complete go then.
void check_signals() {
  TORCH_CHECK(asked_to_end == 0, "interrupted by the signal ", int{asked_to_end}, "; nothing was written");
}

/// An engine whose inputs come from files.
class EngineOnFiles {
 public:
  explicit EngineOnFiles(const SavedEngine& saved) : engine_(saved), saved_with_(saved.notes.inputs) {}

  Engine& engine() { return engine_; }

  /// Writes the network that the last batch made.
  void save_adapted(const std::string& path) const {
    if (last_) engine_.save_adapted(*last_, path);
  }

  void calibrate(Batches batches, double quantile) {
    std::vector<at::Tensor> distances;
    distances.reserve(static_cast<std::size_t>(batches.count()));
    for (std::int64_t i = 0; i < batches.count(); ++i) {
      distances.push_back(call([&] { return engine_.uncertainty(batches[i]); }));
    }
    engine_.options.threshold = quantile_of(distances, quantile);
  }

  Results adapt(Batches& batches, Outputs& outputs) {
    Results results;
    results.batches = batches.count();
    Progress progress(batches.count());
    for (std::int64_t i = 0; i < batches.count(); ++i) {
      const Adaptation adapted = call([&] { return engine_.adapt(batches[i], /*with_details=*/true); });
      const std::int64_t batch_dim = engine_.prediction_layout().batch_of(adapted.prediction.dim());
      const at::Tensor uncertainty = sample_distances(adapted.second, adapted.first, batch_dim);
      const std::int64_t samples = uncertainty.size(0);
      outputs.predictions.add(adapted.prediction, batch_dim, batches.share(i));
      if (outputs.uncertainty) outputs.uncertainty->add(uncertainty, 0, batches.share(i));
      results.samples += samples;
      results.uncertainty += uncertainty.sum().item<double>();
      const at::Tensor& which = adapted.adapted_samples;
      results.adapted_samples += which.defined() ? which.sum().item<std::int64_t>() : samples;
      if (adapted.recovered) ++results.recoveries;
      if (adapted.steps() > 0) {
        results.first_loss += static_cast<double>(samples) * adapted.losses[0].mean().item<double>();
        results.last_loss += static_cast<double>(samples) * adapted.loss().mean().item<double>();
      }
      if (i + 1 == batches.count()) last_ = adapted;
      progress.step();
      check_signals();
    }
    return results;
  }

 private:
  /// Errors say what the engine takes.
  template <typename Work>
  std::invoke_result_t<Work> call(const Work& work) {
    try {
      return work();
    } catch (const std::exception& error) {
      TORCH_CHECK(
          false, detail::first_line_of(error), " (the engine was saved with the inputs ", detail::join(saved_with_),
          ")");
    }
  }

  Engine engine_;
  std::vector<std::string> saved_with_;
  std::optional<Adaptation> last_;
};

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

/// The device that was named. Raises c10::ValueError if nothing can run there.
std::optional<c10::Device> device_named(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const c10::Device device(name);
  const auto cuda_devices = static_cast<int>(at::getNumGPUs());
  TORCH_CHECK_VALUE(
      device.is_cpu() || device.is_cuda(), "--device must be cpu, cuda, or cuda: and a number, not ", name);
  TORCH_CHECK_VALUE(
      device.is_cpu() || std::max<int>(device.index(), 0) < cuda_devices, "there is no device ", name,
      "; this machine, with this build of torch, has ", cuda_devices, " CUDA devices");
  return device;
}

/// Says it on the output. Raises c10::Error if nobody can have read it.
void say(const std::string& text) {
  std::cout << text << '\n' << std::flush;
  TORCH_CHECK(std::cout.good(), "the report cannot be written to the standard output");
}

void run(const Arguments& arguments) {
  for (const auto* path : {&arguments.input, &arguments.output, &arguments.uncertainty, &arguments.calibrate}) {
    if (!path->empty()) check_extension(*path);
  }
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  SavedEngine saved = load_engine(arguments.engine, device_named(arguments.device));
  if (!arguments.layer.empty()) saved.layer = arguments.layer;
  saved.options.override_with(arguments.options);
  if (arguments.describe) return say(describe(saved));

  if (arguments.in_dims) saved.in_dims = arguments.in_dims;
  const auto batches_of = [&](const std::string& path) {
    return Batches(
        path, arguments.batch_size, device_of(saved), floating_point_of(saved), saved.in_dims, saved.prediction_layout);
  };
  Batches batches = batches_of(arguments.input);
  TORCH_CHECK_VALUE(
      arguments.save_adapted.empty() || !saved.options.copy_model || batches.count() == 1,
      "--save-adapted needs --online, as each of ", batches.count(), " batches gives other weights");
  const auto start = std::chrono::steady_clock::now();
  EngineOnFiles engine(saved);
  if (!arguments.calibrate.empty()) engine.calibrate(batches_of(arguments.calibrate), arguments.quantile);
  Outputs outputs{TensorFile(arguments.output), {}};
  if (!arguments.uncertainty.empty()) outputs.uncertainty.emplace(arguments.uncertainty);
  Results results = engine.adapt(batches, outputs);
  outputs.finish();
  if (!arguments.save_adapted.empty()) engine.save_adapted(arguments.save_adapted);
  outputs.commit();
  results.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  results.output = arguments.output;
  say(report(results, engine.engine(), arguments.json));
}

}  // namespace
}  // namespace it3::apps

int main(int argc, char** argv) {  // NOLINT(misc-const-correctness): the language has it so
  // Keeps memory that a step has freed for the next one; glibc would give it back and fault it in anew.
  constexpr int bytes = 1'000'000'000;
  mallopt(M_MMAP_THRESHOLD, bytes);
  mallopt(M_TRIM_THRESHOLD, bytes);
  std::signal(SIGINT, it3::apps::ask_to_end);
  std::signal(SIGTERM, it3::apps::ask_to_end);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows past the limit is an error then, and no end
  it3::apps::PlainWarnings warnings;
  const c10::WarningUtils::WarningHandlerGuard warning_guard(&warnings);
  try {
    const auto [arguments, exit_code] = it3::apps::parse_arguments(argc, argv);
    if (exit_code) return *exit_code;
    it3::apps::run(arguments);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "it3-adapt: " << it3::detail::first_line_of(error) << '\n';
    return 1;
  }
}
