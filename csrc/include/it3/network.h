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

/// What is injected at a network's layer: a function from the layer's output (the features) to the tensor that the rest
/// of the network uses instead, of the same shape, dtype and device. It must not write to the features, which other
/// passes may need.
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Inject doubled([](const at::Tensor& features) { return 2 * features; });
/// it3::FirstPass first = network.predict(it3::Inputs(x));                     // y0
/// at::Tensor injected = network.resume(it3::Inputs(x), first, &doubled);  // the rest of the network on 2 * features
/// assert(injected.sizes() == first.prediction.sizes());
/// @endcode
class Inject {
 public:
  /// What is called with the features.
  using Function = std::function<at::Tensor(const at::Tensor& features)>;

  /// @param function  the function
  /// @param takes_any_layout  whether the function is also right for features in channels_last memory format where the
  ///                          model by itself gives contiguous ones. One with `features.view(...)` is not
  template <typename F, typename = std::enable_if_t<std::is_convertible_v<F, Function>>>
  Inject(F function, bool takes_any_layout = false)
      : function_(std::move(function)), takes_any_layout_(takes_any_layout) {}

  /// The tensor to use instead of the features.
  at::Tensor operator()(const at::Tensor& features) const { return function_(features); }
  /// Whether the function is right for features in any memory format.
  bool takes_any_layout() const { return takes_any_layout_; }

 private:
  Function function_;
  bool takes_any_layout_;
};

/// The result of the first pass, from which the second one goes on.
struct FirstPass {
  /// y0; undefined after TwoPass::prepare().
  at::Tensor prediction;
  /// The values that a network which is cut at its layer hands from the part before the layer to the part behind it.
  std::vector<c10::IValue> carried = {};
};

/// A model that can be run in two passes: plainly, and with an injection at its layer.
class IT3_API TwoPass {
 public:
  virtual ~TwoPass() = default;

  /// The first prediction: y0 = f(x), or with an injection, which y0 has where there is a neutral signal.
  virtual FirstPass predict(const Inputs& inputs, const Inject* inject = nullptr) = 0;

  /// A first pass without its prediction: only what resume() needs.
  virtual FirstPass prepare(const Inputs& inputs) = 0;

  /// The second prediction, y1 = f(x | y0).
  ///
  /// @param inputs  those of the first pass
  /// @param first  the result of predict() or prepare()
  /// @param inject  is called with the layer's output, each time that the layer is called; the rest of the network uses
  ///                what it returns. Null: the plain prediction
  /// @throws c10::Error  if the layer is never called
  virtual at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) = 0;
};

/// A floating-point or complex parameter of a network.
struct NamedParameter {
  /// Its dotted name, such as "encoder.weight".
  std::string name;
  /// The parameter itself, not a copy.
  at::Tensor tensor;
  /// Whether it belongs to a normalization layer.
  bool of_normalization = false;
};

/// The tensors of these parameters, in their order.
IT3_API std::vector<at::Tensor> tensors_of(const std::vector<NamedParameter>& parameters);

/// The weights of a network that adapt. They may be changed at will: when this object is destroyed, by an exception or
/// not, the network is bit for bit as it was.
class IT3_API AdaptedWeights {
 public:
  virtual ~AdaptedWeights() = default;

  /// The weights, to be changed in place. The tensors stay valid after this object is gone, and belong to nobody else.
  virtual const std::vector<at::Tensor>& values() const = 0;

  /// Writes the values into the network for good.
  virtual void commit() = 0;
};

/// A transaction on a network's weights, opened by Network::checkout(): passes with weights that can be changed. It has
/// to be used and destroyed in the thread that opened it.
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// std::unique_ptr<it3::WorkingCopy> copy = network.checkout(network.parameters());
/// at::Tensor loss = copy->predict(it3::Inputs(x)).prediction.pow(2).mean();
/// std::vector<at::Tensor> gradients = torch::autograd::grad({loss}, copy->leaves());
/// for (std::size_t i = 0; i < gradients.size(); ++i) copy->values()[i].sub_(0.1 * gradients[i]);  // a step of SGD
/// at::Tensor adapted = copy->predict(it3::Inputs(x)).prediction;
/// copy.reset();  // the model is as before; copy->commit() would have kept the step
/// @endcode
class IT3_API WorkingCopy : public TwoPass, public AdaptedWeights {
 public:
  /// The tensors to differentiate the loss by, in the order of the parameters that checkout() was given.
  virtual const std::vector<at::Tensor>& leaves() const = 0;

  /// Whether PlainBackward may replace autograd's engine: the leaves belong to this copy alone, and it is enough to
  /// evaluate the nodes of the graphs that the passes record in order (no Python hooks, no activation checkpointing).
  virtual bool has_plain_graphs() const { return false; }

  /// The same passes with other values for the leaves, as constants. While the returned object lives, the working
  /// copy's own passes must be neither run nor differentiated.
  virtual std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) = 0;

  /// Whether prepare() always returns the same: it depends neither on the leaves nor on chance.
  virtual bool has_fixed_head() const { return false; }

  /// Whether resume(), of this copy and of with_constants(), goes on from what the first pass carried, without running
  /// the part before the layer again.
  virtual bool resumes_behind_layer() const { return false; }
};

/// What a network's passes depend on beside their inputs.
struct Dependencies {
  std::vector<at::Tensor> tensors;  ///< parameters, buffers and the like
  std::uint64_t program;            ///< a number that stands for what is computed with them; valid in this process
  bool writes_inputs = false;       ///< whether the passes write to their inputs
};

/// A model that y0 can be fed back into, at one layer. The network's own passes run on the model's own weights, as
/// training needs it; adaptation opens a WorkingCopy by checkout(). Derive from it to adapt a model of another kind:
/// examples/cpp/own_network.cpp does so. The ready-made networks are ModuleNetwork, ScriptNetwork and ExportedNetwork.
///
/// Several threads may share a network. Where passes need the model's own tensors, calls take turns; see take_turn().
/// That does not cover what a program does with the model by itself: while a thread adapts it, the program must not
/// call it, train it, or differentiate what its own passes have recorded.
class IT3_API Network : public TwoPass {
 public:
  /// A number that no other network of this process has.
  std::uint64_t id() const { return id_; }

  /// Waits until no other thread uses what the passes of this network need for themselves, and keeps other threads out
  /// as long as the returned object lives. Returns at once where the passes share nothing that changes.
  virtual ModelLock::Turn take_turn() const { return {}; }

  /// The lock on some of the model's tensors. It is kept for the next call with the same tensors.
  ModelLock lock_on(const std::vector<at::Tensor>& tensors) const;

  /// True at the first call only, for a warning that is given once for each network.
  bool is_first_warning() { return !has_warned_.exchange(true); }

  /// Whether it adapts without cuDNN, which differentiates recurrent layers in train mode only.
  bool runs_without_cudnn() const { return runs_without_cudnn_; }
  /// Has it adapt without cuDNN from now on.
  void run_without_cudnn() { runs_without_cudnn_ = true; }

  /// All floating-point and complex parameters, those with requires_grad=false too. A tied parameter comes once, under
  /// its first name.
  virtual std::vector<NamedParameter> parameters() const = 0;

  /// All parameters and buffers that are known, a tied one under each of its names. By default, parameters().
  virtual std::vector<std::pair<std::string, at::Tensor>> named_tensors() const;

  /// What the passes depend on; unset if they may do more than compute with torch's operations.
  virtual std::optional<Dependencies> dependencies(const Normalization& /*normalization*/) const {
    return std::nullopt;
  }

  /// Whether a working copy holds its weights in the model's own tensors as long as it lives.
  virtual bool swaps_weights() const { return false; }

  /// Whether this thread is inside of a call on the model, or on a model that has a parameter in common with it.
  bool is_in_use_here() const;

  /// Whether a pass may write to its inputs. If so, each pass is given copies.
  virtual bool may_write_inputs() const { return true; }

  /// The name of the layer to inject at; empty for the whole model, or if the layer has no name.
  virtual std::string layer_name() const { return {}; }

  /// How the passes run, for people to read, such as "cut at the layer, a TorchScript module".
  virtual std::string how() const { return "run by the passes of its own class"; }

  /// Whether the part before the layer runs once for both passes.
  virtual bool is_cut() const { return false; }

  /// The layers that compute the prediction, as far as they are known.
  virtual Origin origin_of_prediction() const { return {}; }
  /// The layers that compute the features, as far as they are known.
  virtual Origin origin_of_features() const { return {}; }

  /// Opens a transaction on the weights.
  ///
  /// @param adapted  the parameters that can change, out of parameters(); the others are constants
  /// @param normalization  which statistics batch normalization uses, in eval mode; stored statistics never change
  /// @throws c10::ValueError  here or in a pass, if `normalization` is not the default and the network has no batch
  ///                          normalization
  virtual std::unique_ptr<WorkingCopy> checkout(
      const std::vector<NamedParameter>& adapted, const Normalization& normalization = {}) = 0;

  /// Opens a transaction in which each sample has weights of its own, and all samples run together (by torch.vmap).
  /// Every leaf and every tensor in inputs and results has a leading dimension of size `samples`; distances and
  /// injections, which run inside, see one sample. Returns null if this kind of network cannot run so.
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
