#include "engine_on_files.h"

#include <unistd.h>

#include <cstdint>
#include <iostream>
#include <memory>

#include <ATen/ATen.h>
#include <boost/timer/progress_display.hpp>

#include <it3/backend/uncertainty.h>

#include "end_request.h"

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

c10::Device device_of(const SavedEngine& saved) {
  const auto parameters = saved.network.parameters();
  return parameters.size() == 0 ? c10::Device(c10::kCPU) : (*parameters.begin()).device();
}

EngineOnFiles::EngineOnFiles(const SavedEngine& saved)
    : engine_(saved), device_(device_of(saved)), saved_with_(saved.notes.inputs) {}

void EngineOnFiles::calibrate(Batches batches, double quantile) {
  std::vector<at::Tensor> distances;
  distances.reserve(static_cast<std::size_t>(batches.count()));
  for (std::int64_t i = 0; i < batches.count(); ++i) {
    distances.push_back(call([&] { return engine_.uncertainty(batches[i]); }));
    check_not_asked_to_end("nothing was written");
  }
  engine_.options.threshold = quantile_of(distances, quantile);
}

Results EngineOnFiles::adapt(
    Batches& batches, Outputs& outputs, Results results, const std::function<void(Results&)>& after_batch) {
  Progress progress(batches.count(), results.batches);
  for (std::int64_t i = results.batches; i < batches.count(); ++i) {
    const Adaptation adapted = call([&] { return engine_.adapt(batches[i], /*with_details=*/true); });
    const std::int64_t batch_dim = engine_.prediction_layout().batch_of(adapted.prediction.dim());
    const at::Tensor uncertainty = sample_distances(adapted.second, adapted.first, batch_dim);
    const std::int64_t samples = uncertainty.size(0);
    outputs.predictions.add(adapted.prediction, batch_dim, batches.share(i));
    if (outputs.uncertainty) outputs.uncertainty->add(uncertainty, 0, batches.share(i));
    ++results.batches;
    results.samples += samples;
    results.uncertainty += uncertainty.sum().item<double>();
    const at::Tensor& which = adapted.adapted_samples;
    results.adapted_samples += which.defined() ? which.sum().item<std::int64_t>() : samples;
    if (adapted.recovered) ++results.recoveries;
    if (adapted.steps() > 0) {
      results.first_loss += static_cast<double>(samples) * adapted.losses[0].mean().item<double>();
      results.last_loss += static_cast<double>(samples) * adapted.loss().mean().item<double>();
    }
    if (results.batches == batches.count()) last_ = adapted;
    progress.step();
    after_batch(results);
  }
  return results;
}

Checkpoint EngineOnFiles::checkpoint(const Results& results, Outputs& outputs) const {
  Checkpoint checkpoint;
  checkpoint.results = results;
  checkpoint.threshold = engine_.options.threshold;
  checkpoint.predictions = outputs.predictions.progress();
  if (outputs.uncertainty) checkpoint.uncertainty = outputs.uncertainty->progress();
  if (!engine_.options.copy_model) checkpoint.engine = to_ivalue(engine_.state());
  checkpoint.random_state = random_state(device_);
  return checkpoint;
}

void EngineOnFiles::go_on_from(const Checkpoint& checkpoint, Batches& batches, Outputs& outputs) {
  // What an engine finds out at its first call is found out from the same batch.
  call([&] { return engine_.uncertainty(batches[0]); });
  engine_.options.threshold = checkpoint.threshold;
  if (!checkpoint.engine.isNone()) engine_.set_state(state_from(checkpoint.engine));
  outputs.predictions.go_on_from(checkpoint.predictions);
  if (outputs.uncertainty) outputs.uncertainty->go_on_from(checkpoint.uncertainty);
  set_random_state(device_, checkpoint.random_state);
}

void EngineOnFiles::save_adapted(const std::string& path) const {
  if (last_) engine_.save_adapted(*last_, path);
}

}  // namespace it3::apps
