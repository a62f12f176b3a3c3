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

/// A network, an embedder and options: the class that C++ programs use. losses() trains, adapt() predicts.
///
/// @code{.cpp}
/// torch::nn::Sequential net(
///     {{"encoder", torch::nn::Linear(13, 64)}, {"relu", torch::nn::ReLU()}, {"head", torch::nn::Linear(64, 3)}});
/// it3::Engine engine(std::make_shared<it3::ModuleNetwork>(net, "encoder"), {.num_steps = 2, .lr = 1e-4});
/// torch::optim::Adam optimizer(engine.parameters());
/// for (int step = 0; step < 10; ++step) {
///   it3::Losses losses = engine.losses(x, y);
///   optimizer.zero_grad();
///   (torch::mse_loss(losses.prediction, y) + losses.loss_ttt).backward();
///   optimizer.step();
/// }
/// it3::Adaptation adapted = engine.adapt(x);  // the model's weights are afterwards as before
/// @endcode
///
/// **Threads.** Several threads may share an engine, the first call included, and several engines may share a model:
/// every result is as if the calls had run one after another. Calls on a ScriptNetwork run at the same time. Calls on a
/// ModuleNetwork wait for one another. So do calls that keep adapted weights (Options::copy_model false): each of them
/// starts from what the one before has left. Do not change `options` or the neutral signal while another thread calls.
/// See Network for what else a program must not do with the model meanwhile.
///
/// **Copies.** An engine can be moved but not copied. A moved-from engine can only be assigned to or destroyed.
///
/// **Functions of your own** (`embed`, `combine`, `distance`) may compute with weights of the model. With a
/// ScriptNetwork they see the weights from before the call. A ModuleNetwork holds the adapted weights in the model
/// itself during a call; there adapt() throws c10::ValueError if a function computes with a weight that adapts.
class IT3_API Engine {
 public:
  /// An engine around any network.
  ///
  /// @param network  the network, cut at the layer that y0 is fed back at
  /// @param options  how to adapt
  /// @param embed  the default embedder, another module's holder, a function of (prediction, features), or a
  ///               ScriptFunction, which save() can write
  /// @param combine  a function of (features, embedding); broadcast_add() if null
  /// @param distance  a function of two predictions, or distance_by_name(...); the mean squared error if not given
  /// @throws c10::ValueError  if the network, `embed` or the distance is null
  ///
  /// @code{.cpp}
  /// auto network = std::make_shared<it3::ModuleNetwork>(model, "encoder");
  /// it3::Engine engine(
  ///     network, {.num_steps = 1, .lr = 1e-4}, it3::Embedder(), nullptr, it3::distance_by_name("js"));
  /// it3::Losses losses = engine.losses(x, classes);  // class indices, (8,)
  /// @endcode
  explicit Engine(
      std::shared_ptr<Network> network,
      Options options = {},
      Embed embed = Embedder(),
      Combine combine = nullptr,
      std::optional<Distance> distance = {});

  /// An engine around a new ModuleNetwork of a model with an InjectionPoint, given by its holder or its pointer. The
  /// other arguments are as above.
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

  /// The engine that a file held, see load_engine(). Warns, with the reason, if the file's compiled programs cannot be
  /// run here.
  explicit Engine(SavedEngine saved);
  /// Moves an engine.
  Engine(Engine&&) noexcept;
  /// Moves an engine.
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  /// How to adapt. May be changed between calls.
  Options options;

  /// Whether y0 or softmax(y0) is fed back.
  Feedback feedback = Feedback::automatic;

  /// Which dimensions of the inputs hold the samples, where the layout of the prediction does not tell; see InDims.
  std::optional<InDims> in_dims = std::nullopt;

  /// Which dimensions of predictions are samples and channels. Unless it was set, the engine finds out at its first
  /// call; see settle_layouts().
  Layout prediction_layout() const;
  /// Sets it, for models for which the engine cannot find out.
  void set_prediction_layout(const Layout& layout);

  /// How losses() forms the second term of the training loss.
  TrainingRecipe training_recipe;

  /// Whether the embedder was trained: by losses() of this engine, before the engine was saved and loaded, or
  /// elsewhere. An embedder that has its weights when the engine is made counts as trained. An engine that was not
  /// trained warns once when it adapts; call set_trained(true) if model and embedder were trained by other means.
  bool is_trained() const;
  /// Sets is_trained().
  void set_trained(bool is_trained);

  /// The signal that stands for "no prediction yet", in training and at test time; see Neutral.
  Neutral neutral() const;
  /// Sets neutral().
  ///
  /// @throws c10::ValueError  where check_neutral() does
  void set_neutral(Neutral neutral);

  /// The default embedder; null if the engine has another one. Its parameters have to be trained together with the
  /// model's: parameters() returns both.
  const Embedder& embedder() const { return embedder_; }

  /// The parameters for a training optimizer: the network's, then those of the default embedder. They exist before the
  /// first call, so the optimizer may be made at once.
  std::vector<at::Tensor> parameters() const;

  /// The two terms of the training loss of one batch, with gradients; see training_losses().
  ///
  /// @param inputs  one batch
  /// @param target  in the shape of the prediction, or class indices: integers, in that shape without the channel
  ///                dimension. Without a target the second term is distance(y1, y0)
  /// @throws c10::ValueError  where training_losses() does: for example, for a target that does not fit the prediction
  ///
  /// @code{.cpp}
  /// it3::Losses losses = engine.losses(x, y);  // (8, 13) and (8, 3)
  /// at::Tensor first_term = torch::mse_loss(losses.prediction, y);
  /// (first_term + losses.loss_ttt).backward();
  /// @endcode
  Losses losses(const Inputs& inputs, const std::optional<at::Tensor>& target = {});

  /// Adapts to a batch and predicts; see it3::adapt(). The model's weights, buffers and flags are afterwards as before,
  /// unless Options::copy_model is false: then adapted weights stay until reset().
  ///
  /// @param inputs  one batch
  /// @param with_details  whether the result also has y1 and the adapted weights
  /// @throws c10::ValueError  where it3::adapt() does; and for a threshold that was calibrated while the other of y0
  ///                          and softmax(y0) was fed back
  /// @throws c10::Error  if Options::copy_model is false and the call comes from inside of another call on the model
  ///
  /// @code{.cpp}
  /// engine.options.set("anchor", "frozen");
  /// it3::Adaptation adapted = engine.adapt(x);
  /// at::Tensor prediction = adapted.prediction, unadapted = engine.adapt(x, true).first;
  /// engine.options.num_steps = 0;
  /// at::Tensor plain = engine.adapt(x).prediction;  // y0 of the network as it is
  /// @endcode
  Adaptation adapt(const Inputs& inputs, bool with_details = false);

  /// How unsure the network is of each sample, without adapting: ‖y1 − y0‖, or ‖softmax(y1) − softmax(y0)‖ where
  /// probabilities are fed back; (B,), in the units of the prediction. See it3::uncertainty(). With
  /// Feedback::prediction, logits are compared as they are; their distance is larger where the network is surer.
  ///
  /// @code{.cpp}
  /// at::Tensor distances = engine.uncertainty(x);
  /// std::cout << "least sure of sample " << distances.argmax().item<std::int64_t>() << '\n';
  /// @endcode
  at::Tensor uncertainty(const Inputs& inputs);

  /// Sets Options::threshold to a quantile of uncertainty() over batches that need no adaptation, and returns it. From
  /// then on only samples above the threshold adapt.
  ///
  /// It also notes how extreme the predictions of these batches are. From then on adapt() warns, once, if the adapted
  /// predictions of a batch are far more extreme: for classes, if their mean entropy is below half of the least one
  /// here; else, if their mean norm is above twice the greatest. Batches with fewer samples than the smallest one here
  /// are not judged, so use batches of the size that will adapt.
  ///
  /// @throws c10::ValueError  for a quantile outside [0, 1], if there are no batches, or if distances are not finite
  ///
  /// @code{.cpp}
  /// double threshold = engine.calibrate({it3::Inputs(x), it3::Inputs(torch::randn({8, 13}))}, 0.9);
  /// it3::Adaptation adapted = engine.adapt(x + 0.5 * torch::randn_like(x));
  /// std::cout << adapted.adapted_samples.sum().item<std::int64_t>() << " samples above " << threshold << '\n';
  /// @endcode
  double calibrate(const std::vector<Inputs>& clean, double quantile = 0.95);

  /// The first part of calibrate(), for batches that come one at a time: adds a batch to a calibration.
  ///
  /// @code{.cpp}
  /// it3::Calibration calibration;
  /// for (int batch = 0; batch < 3; ++batch) engine.add_to(calibration, torch::randn({8, 13}));
  /// engine.calibrate_by(calibration);
  /// @endcode
  void add_to(Calibration& calibration, const Inputs& clean);
  /// The second part of calibrate(): sets and returns the threshold.
  double calibrate_by(const Calibration& calibration, double quantile = 0.95);

  /// How extreme predictions were in calibrate(); empty before.
  std::optional<PredictionRange> calibrated_range() const;
  /// Sets calibrated_range(); an empty one ends the warnings.
  void set_calibrated_range(std::optional<PredictionRange> range);

  /// Writes the weights from before the first call with Options::copy_model false back into the model, and forgets what
  /// such calls have kept.
  ///
  /// @throws c10::Error  if it is called from inside of another call on the model
  ///
  /// @code{.cpp}
  /// engine.options.copy_model = false;
  /// for (int batch = 0; batch < 3; ++batch) engine.adapt(torch::randn({8, 13}));
  /// std::cout << "moved by " << 100 * engine.drift().relative << " %\n";
  /// engine.reset();
  /// assert(engine.drift().distance == 0);
  /// @endcode
  void reset();

  /// How far the weights have moved from those that reset() goes back to.
  Drift drift() const;

  /// How calls with such inputs run, and why: whether the network is cut, whether compiled programs evaluate them, what
  /// is fed back, and which dimensions of features and prediction are channels and samples. It runs a plain pass.
  Explanation explain(const Inputs& inputs);

  /// Writes the engine to one file, which load() and Python's it3.load() read; see save_engine().
  ///
  /// @param path  the file, which appears when it is complete
  /// @param example_inputs  give the embedder its shape if no call has; the file notes their shapes
  /// @throws c10::ValueError  unless the network is a ScriptNetwork that is no ExportedNetwork, and `embed`, `combine`
  ///                          and `distance` are the default ones, a distance by its name, or ScriptFunctions
  /// @throws c10::Error  if the file cannot be written
  ///
  /// @code{.cpp}
  /// auto network = std::make_shared<it3::ScriptNetwork>(torch::jit::load("model.pt"), "encoder");
  /// it3::Engine engine(network, {.num_steps = 2});
  /// engine.losses(x, y);  // and train
  /// engine.save("saved.pt", x);
  /// it3::Engine loaded = it3::Engine::load("saved.pt");
  /// assert(torch::equal(loaded.adapt(x).prediction, engine.adapt(x).prediction));
  /// @endcode
  void save(const std::string& path, const Inputs& example_inputs);

  /// Reads an engine that save(), in C++ or Python, has written; see load_engine(). A file with compiled programs runs
  /// them as machine code: read no such file that you do not trust.
  ///
  /// @param path  the file
  /// @param device  where its tensors are put; by default, on the devices that they were saved from
  /// @throws c10::Error  if the file is missing, damaged, or holds no engine
  ///
  /// @code{.cpp}
  /// it3::Engine engine = it3::Engine::load("engine.pt", torch::Device(torch::kCPU));
  /// engine.options.num_steps = 1;
  /// at::Tensor prediction = engine.adapt(x).prediction;
  /// @endcode
  static Engine load(const std::string& path, std::optional<c10::Device> device = {});

  /// What training and adaptation have changed: the network's parameters and buffers, the default embedder, whether it
  /// is trained, and what calls with Options::copy_model false have kept. The tensors are copies. An engine around a
  /// network of the same structure that takes this state goes on where this one is.
  EngineState state() const;

  /// Takes the state of an engine around a network of the same structure. Tensors keep their devices and dtypes.
  ///
  /// @throws c10::ValueError  with the names, for a state of another network or embedder; nothing has changed then
  ///
  /// @code{.cpp}
  /// it3::EngineState before = engine.state();
  /// engine.options.copy_model = false;
  /// engine.adapt(x);
  /// engine.set_state(before);
  /// @endcode
  void set_state(const EngineState& state);

  /// Writes state() to a file; see write_state().
  void save_state(const std::string& path) const;

  /// Takes the state that save_state() has written.
  ///
  /// @throws c10::ValueError  where set_state() does
  /// @throws c10::Error  if the file is missing, damaged, or holds no state
  ///
  /// @code{.cpp}
  /// engine.losses(x, y);  // and train
  /// engine.save_state("state.pt");
  /// it3::Engine other(std::make_shared<it3::ModuleNetwork>(model, "encoder"), engine.options);
  /// other.load_state("state.pt");
  /// @endcode
  void load_state(const std::string& path);

  /// Writes the adapted network as plain TorchScript, which runs without it3.
  ///
  /// @throws c10::ValueError  unless the network is a ScriptNetwork that is no ExportedNetwork, the adaptation has
  ///                          details, and the engine has no neutral signal
  /// @throws c10::Error  if the file cannot be written
  ///
  /// @code{.cpp}
  /// it3::Engine engine = it3::Engine::load("engine.pt");
  /// it3::Adaptation adapted = engine.adapt(x, true);
  /// engine.save_adapted(adapted, "adapted.pt");
  /// torch::jit::Module plain = torch::jit::load("adapted.pt");
  /// at::Tensor prediction = plain.forward({x}).toTensor();
  /// @endcode
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
