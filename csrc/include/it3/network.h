#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/inputs.h>
#include <it3/backend/layout.h>
#include <it3/backend/model_lock.h>
#include <it3/backend/normalization.h>

namespace it3 {

/// A function from the named layer's output to the tensor that the rest of the network uses instead, of the same shape,
/// dtype and device. It must not write to what it is given, which other passes may need.
class Inject {
 public:
  using Function = std::function<at::Tensor(const at::Tensor& features)>;

  /// @param takes_any_layout  whether the function is right for features in channels_last where the model by itself
  ///                          gives contiguous ones; a `features.view(...)` is not
  template <typename F, typename = std::enable_if_t<std::is_convertible_v<F, Function>>>
  Inject(F function, bool takes_any_layout = false)
      : function_(std::move(function)), takes_any_layout_(takes_any_layout) {}

  at::Tensor operator()(const at::Tensor& features) const { return function_(features); }
  bool takes_any_layout() const { return takes_any_layout_; }

 private:
  Function function_;
  bool takes_any_layout_;
};

/// What the first pass leaves for the second.
struct FirstPass {
  at::Tensor prediction;
  /// What a network that is cut at its layer hands from the one side to the other.
  std::vector<c10::IValue> carried = {};
};

/// A model that can be run in two passes: plain, and with features injected at its named layer.
class IT3_API TwoPass {
 public:
  virtual ~TwoPass() = default;

  /// The first prediction: plain, y0 = f(x), or with what `inject` makes of the named layer's output.
  virtual FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) = 0;

  /// What resume() needs of a first pass, without its prediction.
  virtual FirstPass prepare(const Inputs& inputs) = 0;

  /// The second prediction, y1 = f(x | y0): `inject` is given the named layer's output, and the rest of the network
  /// uses what it returns. The plain prediction if it is null. `inject` runs at each call of the layer. Raises
  /// c10::Error if the layer is never called.
  virtual at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) = 0;
};

/// A floating-point or complex parameter of a network.
struct NamedParameter {
  std::string name;
  at::Tensor tensor;
  /// Whether it belongs to a normalization layer.
  bool of_normalization = false;
};

/// The tensors of some parameters.
IT3_API std::vector<at::Tensor> tensors_of(const std::vector<NamedParameter>& parameters);

/// The weights of a network that adapt, to be changed at will. When this is destroyed, by an exception too, the network
/// is bit for bit as it was.
class IT3_API AdaptedWeights {
 public:
  virtual ~AdaptedWeights() = default;

  /// To be changed in place. They stay valid, and are nobody else's, after this is gone.
  virtual const std::vector<at::Tensor>& values() const = 0;

  /// Writes the values into the network, which keeps them.
  virtual void commit() = 0;
};

/// A transaction on a network's weights: passes on weights that can be changed. It is used and destroyed in the thread
/// that checked it out.
class IT3_API WorkingCopy : public TwoPass, public AdaptedWeights {
 public:
  /// The leaves to differentiate the loss by, in the order that checkout() was given.
  virtual const std::vector<at::Tensor>& leaves() const = 0;

  /// Whether PlainBackward may take the place of autograd's engine: the leaves belong to this copy alone, and the
  /// graphs that the passes record need nothing but that their nodes are evaluated in order (no Python hooks, no
  /// activation checkpointing).
  virtual bool has_plain_graphs() const { return false; }

  /// The same passes with other values for the leaves, which are constants then. While it lives, the working copy's own
  /// passes must not be run, nor differentiated.
  virtual std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) = 0;

  /// Whether what prepare() gives depends on nothing that changes here: not on the leaves, nor on chance.
  virtual bool has_fixed_head() const { return false; }

  /// Whether resume(), of this copy and of with_constants(), goes on from what the first pass carried, and does not run
  /// again what comes before the layer.
  virtual bool resumes_behind_layer() const { return false; }
};

/// What a network's passes depend on beside their inputs.
struct Dependencies {
  std::vector<at::Tensor> tensors;  // parameters, buffers and the like
  std::uint64_t program;            // stands for what they do with them, in this process
  bool writes_inputs = false;       // whether they write to what they are called with
};

/// A model cut at one layer. Its own passes run on its own weights, as training needs it.
///
/// Threads may share a network. Where its passes need the model's own tensors, calls take turns, see take_turn(). That
/// does not cover what others do with the model: while a thread adapts it, the program must not train it, differentiate
/// what its own passes recorded, or call it by itself.
class IT3_API Network : public TwoPass {
 public:
  /// Another number for each network of this process.
  std::uint64_t id() const { return id_; }

  /// Waits until no other thread uses what the passes of this network need for themselves, and keeps other threads out
  /// while what it returns lives. Without waiting where the passes share nothing that changes.
  virtual ModelLock::Turn take_turn() const { return {}; }

  /// The lock on some of the model's tensors, which is kept for calls that name the same ones.
  ModelLock lock_on(const std::vector<at::Tensor>& tensors) const;

  /// True at the first call only: for what is said once a network.
  bool is_first_warning() { return !has_warned_.exchange(true); }

  /// Whether it adapts without cuDNN, which differentiates recurrent layers in train mode only.
  bool runs_without_cudnn() const { return runs_without_cudnn_; }
  void run_without_cudnn() { runs_without_cudnn_ = true; }

  /// Every floating-point or complex parameter, frozen ones too, each once; tied ones under their first name.
  virtual std::vector<NamedParameter> parameters() const = 0;

  /// Every parameter and buffer, under each of its names, as far as they are known: parameters() by default.
  virtual std::vector<std::pair<std::string, at::Tensor>> named_tensors() const;

  /// Nothing where the passes may do more than compute with torch's operations.
  virtual std::optional<Dependencies> dependencies(const Normalization& /*normalization*/) const {
    return std::nullopt;
  }

  /// Whether a working copy has its weights in the model's own tensors while it lives.
  virtual bool swaps_weights() const { return false; }

  /// Whether this thread is inside of a call on the model, or on another one with a parameter in common.
  bool is_in_use_here() const;

  /// Whether a pass may write to the tensors that it is called with. Each pass then gets copies.
  virtual bool may_write_inputs() const { return true; }

  /// The name of the layer that is injected into; empty for the whole model or where it has none.
  virtual std::string layer_name() const { return {}; }

  /// How its passes run, for people: "cut at the layer, a TorchScript module".
  virtual std::string how() const { return "run by the passes of its own class"; }

  /// Whether what comes before the layer runs once for both passes.
  virtual bool is_cut() const { return false; }

  /// The layers that the prediction, and the named layer's output, come from, as far as they are known.
  virtual Origin origin_of_prediction() const { return {}; }
  virtual Origin origin_of_features() const { return {}; }

  /// Opens a transaction in which `adapted`, some of parameters(), can change and the others are constants. Batch
  /// normalization in eval mode normalizes as `normalization` says; stored statistics never change.
  ///
  /// Raises c10::ValueError, here or in a pass, if the network has no batch normalization to do so.
  virtual std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalization& normalization = {}) = 0;

  /// Opens a transaction in which each sample has a network with weights of its own; all run together. Every leaf,
  /// every tensor in the inputs and every tensor in the results has a leading dimension of `samples`; distances and
  /// injections, which run inside, see one sample. Null if this kind of network cannot be run so.
  virtual std::unique_ptr<WorkingCopy> checkout_per_sample(
      const std::vector<NamedParameter>& /*adapted*/,
      const Normalization& /*normalization*/,
      std::int64_t /*samples*/) {
    return nullptr;
  }

 private:
  static std::uint64_t next_id();

  const std::uint64_t id_ = next_id();
  std::atomic<bool> has_warned_ = false;
  std::atomic<bool> runs_without_cudnn_ = false;
  mutable std::mutex kept_lock_mutex_;
  mutable std::vector<const void*> kept_lock_tensors_;
  mutable ModelLock kept_lock_;
};

}  // namespace it3
