#include "engine_on_files.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>

#include <ATen/ATen.h>
#include <boost/timer/progress_display.hpp>

namespace it3::apps {
namespace {

/// A bar on the error stream, if that is a terminal and there is more than one batch to wait for.
class Progress {
 public:
  Progress(std::int64_t batches, std::int64_t done) {
    if (batches > 1 && isatty(STDERR_FILENO) == 1) {
      bar_ = std::make_unique<boost::timer::progress_display>(static_cast<unsigned long>(batches), std::cerr);
      *bar_ += static_cast<unsigned long>(done);
    }
  }
  void step() {
    if (bar_ != nullptr) ++*bar_;
  }

 private:
  std::unique_ptr<boost::timer::progress_display> bar_;
};

}  // namespace

void Outputs::finish() {
  predictions.finish();
  if (uncertainty) uncertainty->finish();
}

void Outputs::commit() {
  if (uncertainty) uncertainty->commit();
  predictions.commit();
}

void Outputs::go_on_from(const Checkpoint& checkpoint) {
  predictions.go_on_from(checkpoint.predictions);
  if (uncertainty) uncertainty->go_on_from(checkpoint.uncertainty);
}

void Outputs::commit_what_is_left() {
  if (uncertainty) uncertainty->commit_what_is_left();
  predictions.commit_what_is_left();
}

EngineOnFiles::EngineOnFiles(const SavedEngine& saved)
    : engine_(saved),
      device_(saved.device()),
      buffers_of_functions_(saved.buffers_of_functions()),
      saved_with_(saved.notes.inputs) {}

void EngineOnFiles::calibrate(Batches batches, double quantile) {
  Calibration calibration;
  for (std::int64_t i = 0; i < batches.count(); ++i) {
    call(batches[i], [&](const Inputs& batch) { engine_.add_to(calibration, batch); });
    check_not_asked_to_end();
  }
  engine_.calibrate_by(calibration, quantile);
}

Results EngineOnFiles::adapt(
    Batches& batches, Outputs& outputs, Results results, const std::function<void(Results&)>& after_batch) {
  Progress progress(batches.count(), results.batches);
  for (std::int64_t i = results.batches; i < batches.count(); ++i) {
    const Adaptation adapted =
        call(batches[i], [&](const Inputs& batch) { return engine_.adapt(batch, /*with_details=*/true); });
    TORCH_CHECK_VALUE(
        adapted.prediction.dim() > 0 || batches.count() == 1,
        "the prediction is one number for a whole batch, so that it cannot be told which samples it belongs to; leave "
        "--batch-size out");
    const std::int64_t batch_dim = engine_.prediction_layout().batch_of(adapted.prediction.dim());
    const at::Tensor uncertainty = adapted.uncertainty();
    const std::int64_t samples = uncertainty.size(0);
    outputs.predictions.add(adapted.prediction, batch_dim, batches.share(i));
    if (outputs.uncertainty) outputs.uncertainty->add(uncertainty, 0, batches.share(i));
    ++results.batches;
    results.samples += samples;
    results.uncertainty += uncertainty.sum().item<double>();
    const at::Tensor& which = adapted.adapted_samples;
    const auto count = which.defined() ? which.sum().item<std::int64_t>() : samples;
    results.adapted_samples += count;
    if (adapted.recovered) ++results.recoveries;
    results.steps = std::max(results.steps, adapted.steps());
    if (adapted.steps() > 0) {
      // Of a sample that did not adapt it is 0, which is no loss.
      const auto sum = [&](const at::Tensor& loss) {
        return loss.dim() > 0 ? loss.sum().item<double>() : static_cast<double>(count) * loss.item<double>();
      };
      results.first_loss += sum(adapted.losses[0]);
      results.last_loss += sum(adapted.loss());
    }
    if (results.batches == batches.count()) last_ = adapted;
    progress.step();
    after_batch(results);
  }
  return results;
}

Checkpoint EngineOnFiles::checkpoint(const Results& results, Outputs* outputs) const {
  Checkpoint checkpoint;
  checkpoint.results = results;
  checkpoint.threshold = engine_.options.threshold;
  checkpoint.calibrated_range = engine_.calibrated_range();
  checkpoint.buffers_of_functions = buffers_of_functions_;
  if (outputs != nullptr) {
    checkpoint.predictions = outputs->predictions.progress();
    if (outputs->uncertainty) checkpoint.uncertainty = outputs->uncertainty->progress();
  }
  if (!engine_.options.copy_model) checkpoint.engine = to_ivalue(engine_.state());
  checkpoint.random_state = random_state(device_);
  return checkpoint;
}

void EngineOnFiles::go_on_from(const Checkpoint& checkpoint, Batches& batches) {
  // What an engine finds out at its first call is found out from the same batch.
  call(batches[0], [&](const Inputs& batch) { return engine_.uncertainty(batch); });
  engine_.options.threshold = checkpoint.threshold;
  engine_.set_calibrated_range(checkpoint.calibrated_range);
  if (!checkpoint.engine.isNone()) engine_.set_state(state_from(checkpoint.engine));
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < buffers_of_functions_.size(); ++i) {
    buffers_of_functions_[i].copy_(checkpoint.buffers_of_functions.at(i));
  }
  set_random_state(device_, checkpoint.random_state);
}

void EngineOnFiles::save_adapted(const std::string& path) const {
  if (last_) engine_.save_adapted(*last_, path);
}

}  // namespace it3::apps
