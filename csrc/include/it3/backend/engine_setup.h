#pragma once

#include <functional>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>

#include <it3/adapt.h>
#include <it3/backend/export.h>
#include <it3/backend/feedback.h>
#include <it3/backend/graphs.h>
#include <it3/backend/model_lock.h>
#include <it3/backend/online.h>
#include <it3/backend/samples.h>
#include <it3/backend/settle_layouts.h>
#include <it3/embedder.h>
#include <it3/method.h>

namespace it3 {

/// The default embedder as an engine needs it, in whatever language it is a module.
class IT3_API LazyEmbedder {
 public:
  /// @param identity  an address that is the same for all that stand for one embedder
  explicit LazyEmbedder(const void* identity) : lock_({}, {identity}) {}
  virtual ~LazyEmbedder() = default;
  LazyEmbedder(const LazyEmbedder&) = delete;
  LazyEmbedder& operator=(const LazyEmbedder&) = delete;

  /// Whether its weights, if it has any, have their shapes.
  virtual bool is_built() const = 0;

  /// Whether it has weights that come from elsewhere, where training may have made them.
  bool has_trained_weights() const { return is_built() && weights().are_learned(); }

  /// Makes ready, while it has no shape, what makes the weights empty again: that must not fail, and so takes no
  /// memory.
  virtual std::function<void()> clearing() = 0;

  /// Where channels and samples are: as given to it, and from now on.
  virtual Layouts layouts() const = 0;
  virtual void set_layouts(const Layouts& layouts) = 0;

  virtual EmbedderWeights weights() const = 0;

  /// Whether a call does no more than embed() with its weights: no class of the user's own, no hooks.
  virtual bool is_plain() const = 0;

  virtual at::Tensor operator()(const at::Tensor& prediction, const at::Tensor& features) = 0;

  /// Who gives it its shape, or its layouts, has it alone.
  const ModelLock& lock() const { return lock_; }

 private:
  ModelLock lock_;
};

/// The functions of an engine.
struct EngineFunctions {
  /// Null where `embed` is another embedder.
  std::shared_ptr<LazyEmbedder> embedder = nullptr;
  Embed embed = nullptr;
  /// broadcast_add() if null.
  Combine combine = nullptr;
  Distance distance;
};

/// What an engine is made of, beside its network. It does not change: a call keeps to the one that it begins with,
/// whatever the engine is given meanwhile.
struct IT3_API EngineSetup {
  EngineFunctions functions;
  /// Where channels and samples are: as given, else as look_at_first() settles it.
  Layouts layouts = {};
  Neutral neutral = {};
  Feedback feedback = Feedback::automatic;
  /// Whether training had class indices as targets for predictions that are no probabilities by themselves.
  bool learned_probabilities = false;
  /// Whether look_at_first() is over.
  bool is_looked_at = false;
  /// Programs for calls with this setup.
  CompiledKinds compiled = {};
  /// Of calls with this setup. They end before the programs, as a CUDA graph may hold their kernels.
  std::shared_ptr<Graphs> graphs = std::make_shared<Graphs>();
  /// What calls keep that adapt the network for good.
  std::shared_ptr<Online> online = std::make_shared<Online>();

  /// Raises c10::ValueError where the embedder or the distance is null, and what check_neutral() raises.
  void check() const;

  /// See Feedback.
  bool feeds_probabilities() const;

  /// Whether something compares or feeds back the classes or components of predictions.
  bool needs_classes() const;

  /// Whether looking at it would find out what an earlier look, for other uses, left open.
  bool lacks_classes() const { return needs_classes() && !layouts.prediction.channel_dim; }

  /// Whether calls compute as they do with another setup of the same engine, so that its programs are right for them.
  bool computes_as(const EngineSetup& other) const;

  /// What a call adapts by, with the embedder's weights of now.
  Method method(const std::optional<InDims>& in_dims) const;
};

/// What one call of an engine is made with. Borrows the network, the inputs and the setup.
struct EngineCall {
  Network& network;
  const Inputs& inputs;
  const EngineSetup& setup;
  /// The setup's.
  Method method;
};

}  // namespace it3
