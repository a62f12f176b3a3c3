// it3-adapt: adapts a saved engine to a file of inputs and writes the predictions.
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <it3/backend/interrupts.h>
#include <it3/error_text.h>
#include <it3/it3.h>

#include "arguments.h"
#include "batches.h"
#include "checkpoint.h"
#include "end_request.h"
#include "engine_on_files.h"
#include "report.h"
#include "tensor_files.h"

namespace it3::apps {
namespace {

/// Warnings as people read them on a terminal.
class PlainWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { std::cerr << "it3-adapt: warning: " << warning.msg() << '\n'; }
};

c10::ScalarType floating_point_of(const SavedEngine& saved) {
  for (const auto& parameter : saved.parameters()) {
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

void go_on_from(const Checkpoint& checkpoint, Outputs& outputs, const CheckpointFile& file) {
  try {
    outputs.go_on_from(checkpoint);
  } catch (const std::exception& error) {
    TORCH_CHECK(false, "cannot go on from ", file.path(), ": ", error_text(error), "; delete it to begin anew");
  }
}

void run(const Arguments& arguments) {
  for (const auto* path : {&arguments.input, &arguments.output, &arguments.uncertainty, &arguments.calibrate}) {
    if (!path->empty()) check_extension(*path);
  }
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  at::manual_seed(arguments.seed);
  SavedEngine saved = load_engine(arguments.engine, device_named(arguments.device));
  if (!arguments.layer.empty()) saved.layer = arguments.layer;
  saved.options.override_with(arguments.options);
  if (arguments.describe) return say(describe(saved));

  if (arguments.in_dims) saved.in_dims = arguments.in_dims;
  const auto batches_of = [&](const std::string& path) {
    return Batches(
        path, arguments.batch_size, saved.device(), floating_point_of(saved), saved.in_dims, saved.prediction_layout);
  };
  Batches batches = batches_of(arguments.input);
  TORCH_CHECK_VALUE(
      arguments.save_adapted.empty() || !saved.options.copy_model || batches.count() == 1,
      "--save-adapted needs --online, as each of ", batches.count(), " batches gives other weights");
  std::optional<CheckpointFile> checkpoints;
  std::optional<Checkpoint> begun;
  if (arguments.resume) {
    const std::vector<std::string> inputs = {arguments.engine, arguments.input, arguments.calibrate};
    begun = checkpoints.emplace(checkpoint_path(arguments), arguments.given, inputs).read();
  }
  if (!checkpoints) {  // else the batch is done first, so that nothing of it has to be done again
    const auto are = [](const std::exception& error) { return dynamic_cast<const EndRequested*>(&error) != nullptr; };
    set_interrupts({.check = [] { check_not_asked_to_end(); }, .are = are});
  }
  const std::string kept_as = checkpoints ? checkpoints->tag() : "";
  using Seconds = std::chrono::duration<double>;
  const auto start = std::chrono::steady_clock::now();
  EngineOnFiles engine(saved);
  Outputs outputs{TensorFile(arguments.output, kept_as), {}};
  if (!arguments.uncertainty.empty()) outputs.uncertainty.emplace(arguments.uncertainty, kept_as);

  Results results;
  if (begun) {
    results = begun->results;
    std::cerr << "it3-adapt: goes on after " << results.batches << " of " << batches.count() << " batches\n";
    engine.go_on_from(*begun, batches);
  } else if (!arguments.calibrate.empty()) {
    engine.calibrate(batches_of(arguments.calibrate), arguments.quantile);
  }
  const auto is_over = [&](const Results& so_far) { return so_far.batches == batches.count(); };
  if (is_over(results)) {
    outputs.commit_what_is_left();
  } else {
    if (begun && checkpoints) go_on_from(*begun, outputs, *checkpoints);
    const double seconds_before = results.seconds;
    results = engine.adapt(batches, outputs, results, [&](Results& so_far) {
      so_far.seconds = seconds_before + Seconds(std::chrono::steady_clock::now() - start).count();
      if (is_over(so_far)) return;  // then it is finished, whatever was asked
      if (checkpoints && (is_asked_to_end() || checkpoints->is_due())) {
        checkpoints->write([&] { return engine.checkpoint(so_far, &outputs); });
      }
      check_not_asked_to_end(checkpoints ? goes_on : nothing_was_written);
    });
    outputs.finish();
    if (!arguments.save_adapted.empty()) engine.save_adapted(arguments.save_adapted);
    if (checkpoints) checkpoints->write([&] { return engine.checkpoint(results, nullptr); });
    outputs.commit();
  }
  if (checkpoints) checkpoints->remove();
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
  it3::apps::listen_for_end_requests();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows past the limit is an error then, and no end
  it3::apps::PlainWarnings warnings;
  const c10::WarningUtils::WarningHandlerGuard warning_guard(&warnings);
  try {
    const auto [arguments, exit_code] = it3::apps::parse_arguments(argc, argv);
    if (exit_code) return *exit_code;
    it3::apps::run(arguments);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "it3-adapt: " << it3::error_text(error) << '\n';
    return 1;
  }
}
