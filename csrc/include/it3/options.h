#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <c10/core/ScalarType.h>

#include <it3/backend/export.h>
#include <it3/backend/normalization.h>

namespace it3 {

/// The optimizers of the inner loop, with the update rules of torch.optim.
enum class OptimizerKind { adam, adamw, sgd, rmsprop, adagrad };

/// The network that makes the second prediction, y1 = F(x | y0), while f adapts.
///
/// - none: f itself, so that both predictions are pulled toward one another (torch-ttt).
/// - frozen: f as it was before anything adapted. Gradients reach f through y0 alone, so that it cannot learn to accept
///   a wrong y0 (IT3, arXiv 2410.04201).
/// - ema: a moving average of f's weights, F <- ema_decay F + (1 - ema_decay) f after each step (the paper's online
///   variant).
enum class AnchorKind { none, frozen, ema };

/// Which of the adapted network's predictions is the answer: y0, y1, or their mean.
enum class PredictionKind { first, second, mean };

/// What Options::set takes: the kinds of value that a dictionary, a command line or a file can hold.
using OptionValue = std::
    variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<double>, std::vector<std::string>>;

/// How the inner loop adapts. The defaults are three steps of Adam at a learning rate that is small enough to harm no
/// network; torch-ttt's is 1e-2.
struct IT3_API Options {
  OptimizerKind optimizer_name = OptimizerKind::adam;

  /// Optimizer steps a call; 0 gives the plain prediction.
  std::int64_t num_steps = 3;

  /// Learning rate.
  double lr = 1e-4;

  /// Decay rates of Adam's and AdamW's two moments. Unset: (0.9, 0.999).
  std::optional<std::pair<double, double>> betas = std::nullopt;

  /// Added to the denominator by every optimizer but SGD. Unset: 1e-8, for Adagrad 1e-10.
  std::optional<double> eps = std::nullopt;

  /// L2 penalty; AdamW decays the weights themselves. Unset: 0, for AdamW 1e-2.
  std::optional<double> weight_decay = std::nullopt;

  /// Momentum of SGD and RMSprop. Unset: 0.
  std::optional<double> momentum = std::nullopt;

  AnchorKind anchor = AnchorKind::none;

  /// Of the anchor "ema". Unset: 0.99.
  std::optional<double> ema_decay = std::nullopt;

  /// Which statistics batch normalization uses in all passes. The stored ones never change.
  Normalization normalization = {};

  PredictionKind prediction = PredictionKind::first;

  /// If set, steps end early: when the loss has not fallen below the least so far by more than this share of it, for
  /// `patience` evaluations in a row. Waits for the device at each step.
  std::optional<double> tolerance = std::nullopt;

  /// See tolerance. Unset: 1.
  std::optional<std::int64_t> patience = std::nullopt;

  /// If set, only samples whose ‖y1 − y0‖ is above it adapt; the others' predictions are those of the network as it
  /// was. Engine::calibrate() finds a value.
  std::optional<double> threshold = std::nullopt;

  /// The probability with which each weight, after each step, goes back to its value at the start (the stochastic
  /// restoration of CoTTA, arXiv 2203.13591).
  double restore_probability = 0;

  /// If set, and copy_model is false, the network recovers from collapse. Let l be the loss before the first step of a
  /// call, and m <- 0.9 m + 0.1 l its moving average over calls. Where m is above this many times its least value since
  /// the start, or a loss or prediction is not finite, weights, optimizer and anchor go back to the start, and the
  /// batch adapts from there.
  std::optional<double> recovery_factor = std::nullopt;

  /// True: every call starts from the same weights and leaves them as they were. False: adapted weights and the
  /// optimizer's state are kept from call to call.
  bool copy_model = true;

  /// Whether each sample of the batch gets its own weights, as if it were adapted alone. Needs copy_model.
  bool per_sample = false;

  /// With per_sample: how many samples adapt at once. Unset: as many as fit into free memory.
  std::optional<std::int64_t> chunk_size = std::nullopt;

  /// Whether calls on a CUDA device are recorded and replayed as CUDA graphs where they can be, see Graphs.
  bool cuda_graphs = true;

  /// If set, at::kBFloat16 or at::kHalf: the passes run in mixed precision by autocast. Weights, losses, gradients and
  /// predictions stay in float32; in half, gradients are scaled on their way so that small ones do not vanish.
  std::optional<at::ScalarType> amp = std::nullopt;

  /// If set, gradients are scaled down to this Euclidean norm over all parameters.
  std::optional<double> max_grad_norm = std::nullopt;

  /// Which parameters adapt: {"all"}, {"norm"} (scales and shifts of normalization layers), or patterns of dotted
  /// names. A pattern selects a parameter if it matches its name or the name of a module around it; `*`, `?` and
  /// `[...]` mean what they mean in a shell.
  std::vector<std::string> parameters = {"all"};

  /// Sets one option by its name.
  /// Raises c10::ValueError for an unknown name or a value out of range, c10::TypeError for a value of another type;
  /// the message names the option, the value and what is accepted.
  void set(std::string_view name, const OptionValue& value);

  /// The options that are set, by name, as set() takes them.
  std::vector<std::pair<std::string, OptionValue>> values() const;

  /// Sets several options by name, in place of those of before. What was set before and says more about a choice that
  /// these change, such as ema_decay about anchor="ema", goes with that choice.
  /// Raises what set() and validate() raise.
  void override_with(const std::vector<std::pair<std::string, OptionValue>>& others);

  /// Checks what only all options together can tell, such as a momentum given to Adam.
  /// Raises c10::ValueError.
  void validate() const;

  bool operator==(const Options&) const = default;
};

/// The name of an optimizer as Options::set takes it.
IT3_API std::string_view to_string(OptimizerKind name);

}  // namespace it3
