#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <c10/core/Device.h>

#include <it3/adapt.h>
#include <it3/backend/calibration.h>
#include <it3/backend/engine_state.h>
#include <it3/backend/export.h>
#include <it3/backend/feedback.h>
#include <it3/backend/losses.h>
#include <it3/backend/online.h>
#include <it3/backend/samples.h>
#include <it3/backend/saved_engine.h>
#include <it3/embedder.h>
#include <it3/explanation.h>
#include <it3/method.h>
#include <it3/module_network.h>
#include <it3/network.h>
#include <it3/options.h>
#include <it3/training_recipe.h>

namespace it3 {

/// A network, an embedder and options: IT3 for C++ programs. Training is losses(), inference is adapt().
///
/// Threads may share an engine, the first call too, and several engines may be around one model: every result is as if
/// the calls came one after another. A ScriptNetwork's calls run at once, a ModuleNetwork's take turns, and so do all
/// that keep adapted weights (Options::copy_model false), which start from what the last one left. `options` and the
/// neutral signal are not to be changed while another thread calls. See Network for what else a program must not do
/// with the model meanwhile.
///
/// An Engine can be moved but not copied; a moved-from one can only be assigned to or destroyed.
///
/// The functions may compute with weights of a ScriptNetwork's module: they get those of before the call. With a
/// ModuleNetwork, which has adapted weights in the model itself meanwhile, adapt() raises c10::ValueError.
class IT3_API Engine {
 public:
  /// @param embed  the default embedder, another module's holder or function of (prediction, features), or a
  ///               ScriptFunction, which can be saved
  /// @param combine  of (features, embedding); broadcast_add() if null
  /// @param distance  a function of two predictions, or distance_by_name(...); that of "mse" if not given
  /// Raises c10::ValueError if the network, embed or the distance is null.
  explicit Engine(
      std::shared_ptr<Network> network,
      Options options = {},
      Embed embed = Embedder(),
      Combine combine = nullptr,
      std::optional<Distance> distance = {});

  /// Around a ModuleNetwork of this model, by its holder or its pointer.
  template <typename Model>
    requires std::is_constructible_v<ModuleNetwork, Model>
  explicit Engine(
      Model&& model,
      Options options_ = {},
      Embed embed = Embedder(),
      Combine combine = nullptr,
      std::optional<Distance> distance = {})
      : Engine(
            std::shared_ptr<Network>(std::make_shared<ModuleNetwork>(std::forward<Model>(model))),
            std::move(options_),
            std::move(embed),
            std::move(combine),
            std::move(distance)) {}

  /// What a file held. Warns, with the reason, where its compiled programs cannot be run here.
  explicit Engine(SavedEngine saved);
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  /// May be changed between calls.
  Options options;

  /// What of the first prediction is fed back.
  Feedback feedback = Feedback::automatic;

  /// Along which dimensions of the inputs the samples lie, where the prediction's layout does not tell; see InDims.
  std::optional<InDims> in_dims = std::nullopt;

  /// Where predictions have their samples and channels. Unless given, what the kinds of the network's layers tell.
  Layout prediction_layout() const;
  void set_prediction_layout(const Layout& layout);

  /// How losses() makes the second term of the training loss.
  TrainingRecipe training_recipe;

  /// Whether the embedder was trained: by losses() of this engine, before it was saved or loaded, or elsewhere. An
  /// embedder that has its weights when the engine is made counts as trained. adapt() warns once if it was not.
  bool is_trained() const;
  void set_trained(bool is_trained);

  /// The signal that stands for "no prediction yet", in training and at test time; see Neutral.
  Neutral neutral() const;
  /// Raises what check_neutral() raises.
  void set_neutral(Neutral neutral);

  /// The default embedder, null if another is used. Its parameters belong into the training optimizer, beside the
  /// model's.
  const Embedder& embedder() const { return embedder_; }

  /// The network's parameters and, behind them, those of the default embedder, for a training optimizer.
  std::vector<at::Tensor> parameters() const;

  /// See training_losses().
  Losses losses(const Inputs& inputs, const std::optional<at::Tensor>& target = {});

  /// See it3::adapt(). With Options::copy_model false, adapted weights stay until reset().
  Adaptation adapt(const Inputs& inputs, bool with_details = false);

  /// See it3::uncertainty(); normalizes as Options says. Of logits that are fed back as they are it is larger where
  /// the network is surer.
  at::Tensor uncertainty(const Inputs& inputs);

  /// Sets Options::threshold to a quantile of uncertainty() over batches that need no adaptation, and gives it. From
  /// then on adapt() warns, once, where it made the predictions of a batch far more extreme than those of all these
  /// batches: of classes less than half the least mean entropy, else more than twice the greatest mean norm. Batches
  /// with fewer samples than the smallest of these are not judged, so let them be of the size that will adapt. Raises
  /// c10::ValueError for a quantile outside [0, 1], no batches, or distances that are not finite.
  double calibrate(const std::vector<Inputs>& clean, double quantile = 0.95);

  /// The same for batches that come one by one: each is added, and then the calibration is used.
  void add_to(Calibration& calibration, const Inputs& clean);
  double calibrate_by(const Calibration& calibration, double quantile = 0.95);

  /// What calibrate() found beside the threshold; nothing before it.
  std::optional<PredictionRange> calibrated_range() const;
  void set_calibrated_range(std::optional<PredictionRange> range);

  /// Goes back to the weights from before the first call that kept adapted ones.
  void reset();

  /// How far the weights are from those that reset() goes back to.
  Drift drift() const;

  /// Returns how calls with such inputs run, and why: whether the network is cut, whether compiled programs evaluate
  /// them, what is fed back, and where features and prediction have their channels and samples, by a plain pass.
  Explanation explain(const Inputs& inputs);

  /// Writes the engine to one file, see save_engine(); `example_inputs` shape the embedder if no call has, and their
  /// shapes are noted in the file. Raises c10::ValueError unless the network is a ScriptNetwork, but no
  /// ExportedNetwork, and embed, combine and distance are the default ones, by name, or ScriptFunctions.
  void save(const std::string& path, const Inputs& example_inputs);

  /// Reads an engine that save(), in C++ or Python, wrote; on a device, or on those it was saved from. See
  /// load_engine(). A file with compiled programs runs them: read none that you do not trust.
  static Engine load(const std::string& path, std::optional<c10::Device> device = {});

  /// What training and adaptation have changed, in tensors that the engine never writes to: the network's parameters
  /// and buffers, the default embedder, whether it is trained, and what calls with Options::copy_model false keep. With
  /// it, an engine that a program makes around a like network goes on where this one is, reset() included.
  EngineState state() const;

  /// Takes the state of an engine around a like network; tensors keep their devices and dtypes. Raises c10::ValueError,
  /// with the names, for a state of another network or embedder. Nothing has changed then.
  void set_state(const EngineState& state);

  /// Writes state() to a file, see write_state().
  void save_state(const std::string& path) const;

  /// Takes what save_state() wrote. Raises what set_state() raises, and c10::Error for a file that read_state()
  /// refuses.
  void load_state(const std::string& path);

  /// Writes the adapted network as plain TorchScript, which needs no it3. Raises c10::ValueError unless the network is
  /// a ScriptNetwork, and the adaptation has details.
  void save_adapted(const Adaptation& adaptation, const std::string& path) const;

 private:
  struct State;
  /// Gives `work` what a call of these inputs is made with; a first one is preceded by look_at_first().
  template <typename Work>
  auto call(const Inputs& inputs, const Work& work);

  /// By the names of a state, see EngineState.
  std::map<std::string, at::Tensor> tensors() const;

  std::shared_ptr<Network> network_;
  Embedder embedder_;
  std::unique_ptr<State> state_;
};

}  // namespace it3
