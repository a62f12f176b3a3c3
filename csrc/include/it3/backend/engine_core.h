#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/calibration.h>
#include <it3/backend/engine_setup.h>
#include <it3/backend/export.h>
#include <it3/backend/losses.h>
#include <it3/backend/prediction_range.h>
#include <it3/backend/samples.h>
#include <it3/backend/saved_engine.h>
#include <it3/explanation.h>
#include <it3/options.h>
#include <it3/script_network.h>

namespace it3 {

namespace detail {
class NewFile;
}

/// An engine without its network and its setup, which each call brings with it: what stays from call to call.
/// it3::Engine is one with a network; so is Python's, whose network depends on the inputs. Threads may share it.
class IT3_API EngineCore {
 public:
  /// @param was_trained  whether the embedder was trained elsewhere
  explicit EngineCore(bool was_trained) : is_trained(was_trained) {}

  /// Takes over whether the other one is trained, what it learned, its range, and whether it has warned.
  EngineCore(const EngineCore& other);
  EngineCore& operator=(const EngineCore&) = delete;

  /// See training_losses(). The engine is trained afterwards.
  Losses losses(const EngineCall& call, const std::optional<at::Tensor>& target, const TrainingRecipe& recipe);

  /// See it3::adapt(). Adapted weights are kept unless Options::copy_model says otherwise. Warns once where adapting
  /// has made predictions exceed calibrated_range(). Raises c10::ValueError for a threshold from when something else
  /// was fed back.
  Adaptation adapt(const EngineCall& call, const Options& options, bool with_details);

  /// What a file holds of an engine around the call's network, which is `network`; its module as
  /// `SavedEngine::network`. The embedder has its shape. Functions of the user's own are left out.
  ///
  /// @param in_dims  as they were given for inputs of any form; those of the call are for its own
  SavedEngine saved(
      ScriptNetwork& network,
      const EngineCall& call,
      const Options& options,
      const std::optional<InDims>& in_dims) const;

  /// Writes that, with functions of the user's own, see save_engine(). Raises c10::ValueError unless these are
  /// ScriptFunctions.
  void save(
      ScriptNetwork& network,
      const EngineCall& call,
      const Options& options,
      const std::optional<InDims>& in_dims,
      detail::NewFile& file) const;

  /// True once, where `options` adapt an engine that was never trained: then people are to be told `untrained_warning`.
  bool takes_warning(const Options& options);

  /// Takes the range of a calibration, and returns its threshold; see Calibration::threshold().
  double calibrate(const Calibration& calibration, double quantile);

  /// What predictions are compared with after adapting; nothing for none. A new one is warned of anew.
  std::optional<PredictionRange> calibrated_range() const;
  void set_calibrated_range(std::optional<PredictionRange> range);

  /// Whether the embedder was trained, by this engine or elsewhere.
  std::atomic<bool> is_trained;

  /// Whether training had class indices as targets for predictions that are no probabilities by themselves.
  std::atomic<bool> learned_probabilities = false;

  /// Whether takes_warning() was true.
  std::atomic<bool> has_warned = false;

 private:
  /// Learns what kind of predictions class indices train, and warns once of a distance that does not fit predictions.
  void warn_of_distance(const EngineCall& call, const TrainingRecipe& recipe, const Losses& losses);

  /// Raises c10::ValueError where a calibrated threshold is a distance between something else than is fed back now.
  void check_threshold(const EngineCall& call) const;

  /// Warns once, see adapt().
  void compare_with_range(const EngineCall& call, const Options& options, const at::Tensor& first);

  mutable std::mutex mutex_;
  std::optional<PredictionRange> range_;
  bool watches_range_ = false;                       // until it has warned
  std::atomic<bool> has_seen_distribution_ = false;  // a prediction that a distance between distributions took
};

/// How a call would run; without the shapes, see settled_shapes(), and without what training has found out.
IT3_API Explanation explain(const EngineCall& call, const Options& options);

}  // namespace it3
