#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <it3/backend/prediction_range.h>

#include "report.h"

namespace it3::apps {

/// What a run has come to after some of its batches: all that the rest of them needs to come out as if nothing had
/// happened in between.
struct Checkpoint {
  /// Of the batches that are done, how many these are among it.
  Results results = {};
  /// The engine's, which may have been calibrated.
  std::optional<double> threshold = {};
  std::optional<PredictionRange> calibrated_range = {};
  /// See TensorFile::progress(); the second is none without --uncertainty, and both where the outputs are complete.
  c10::IValue predictions = {};
  c10::IValue uncertainty = {};
  /// See to_ivalue(EngineState); none for an engine that keeps nothing from batch to batch.
  c10::IValue engine = {};
  std::vector<at::Tensor> buffers_of_functions = {};
  /// See random_state().
  std::vector<at::Tensor> random_state = {};
};

/// The states of the random number generators that a network on a device draws from, and back.
std::vector<at::Tensor> random_state(c10::Device device);
void set_random_state(c10::Device device, const std::vector<at::Tensor>& states);

/// The file that a checkpoint is in, until the run is complete. Raises c10::Error, naming the file.
class CheckpointFile {
 public:
  /// @param options  the command line, by its names: the same run has the same
  /// @param inputs  the names of the files that it reads: the same run finds them unchanged
  CheckpointFile(std::string path, std::map<std::string, std::string> options, const std::vector<std::string>& inputs);

  const std::string& path() const { return path_; }

  /// By which files of this run are told from those of another command line.
  std::string tag() const;

  /// Nothing if there is no file. Raises if it is damaged, or of another run.
  std::optional<Checkpoint> read() const;

  /// Whether it is time for the next one: they take up to a twentieth of the time.
  bool is_due() const;

  /// Writes what `take` gives, which has had the disk keep what it refers to.
  void write(const std::function<Checkpoint()>& take);

  void remove() const;

 private:
  using Clock = std::chrono::steady_clock;
  std::string path_;
  std::map<std::string, std::string> options_, inputs_;
  Clock::time_point next_ = Clock::now();
};

}  // namespace it3::apps
