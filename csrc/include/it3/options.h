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

/// The optimizers of the inner loop. Their update rules are those of torch.optim.
enum class OptimizerKind { adam, adamw, sgd, rmsprop, adagrad };

/// The network F that makes the second prediction, y1 = F(x | y0), while f adapts.
///
/// - self: f itself, so that both predictions are pulled toward one another, as in torch-ttt.
/// - frozen: f as it was before it adapted. Gradients reach f through y0 alone, so that f cannot learn to accept a
///   wrong y0. This is the paper's choice (arXiv 2410.04201).
/// - frozen_tail: the part of f behind the layer as it was before it adapted, on the features of the adapting f.
///   Gradients reach f through y0 and through the features. The paper's program for MNIST does so. The network has to
///   be cut at its layer.
/// - ema: a moving average of f's weights, F ← ema_decay F + (1 − ema_decay) f after each step: the paper's online
///   variant, for Options::copy_model false.
enum class AnchorKind { self, frozen, frozen_tail, ema };

/// Which prediction of the adapted network is the answer: y0, y1, or their mean.
enum class PredictionKind { first, second, mean };

/// The values that Options::set() accepts: those that a dictionary, a command line or a file can hold. std::monostate
/// is Python's None.
using OptionValue = std::
    variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<double>, std::vector<std::string>>;

/// How the inner loop adapts. The default is three steps of Adam with a learning rate that is too small to harm a
/// network: choose other values on held-out data. Numbers are checked when a call uses them. docs/how_to/options.md
/// says the same of each, and so does option_infos() to programs.
///
/// @code{.cpp}
/// it3::Options options{
///     .num_steps = 5, .lr = 1e-3, .parameters = {"encoder.*", "head.bias"}, .anchor = it3::AnchorKind::frozen};
/// options.set("max_grad_norm", 1.0);  // by name, as Python and files have it
/// options.validate();
/// auto network = std::make_shared<it3::ModuleNetwork>(model, "encoder");
/// it3::Engine engine(network, options);
/// @endcode
struct IT3_API Options {
  /// The optimizer of the inner loop.
  OptimizerKind optimizer_name = OptimizerKind::adam;
  /// Optimizer steps in each call, 0 or more. With 0, the network predicts without adapting.
  std::int64_t num_steps = 3;
  /// Learning rate, 0 or more.
  double lr = 1e-5;
  /// Decay rates of the two moments of Adam and AdamW, each from 0 to below 1. Unset: (0.9, 0.999).
  std::optional<std::pair<double, double>> betas = std::nullopt;
  /// Added to the denominator by every optimizer but SGD. Unset: 1e-8; for Adagrad 1e-10.
  std::optional<double> eps = std::nullopt;
  /// L2 penalty; AdamW decays the weights themselves. Unset: 0; for AdamW 1e-2.
  std::optional<double> weight_decay = std::nullopt;
  /// Momentum of SGD and RMSprop. Unset: 0.
  std::optional<double> momentum = std::nullopt;
  /// Gradients are scaled down to this Euclidean norm, over all parameters together, if theirs is larger. Unset: never.
  std::optional<double> max_grad_norm = std::nullopt;
  /// The parameters that adapt, out of those that require gradients: {"all"}; {"norm"}, the scales and shifts of
  /// normalization layers; or patterns of the dotted names of parameters or of modules around them, in which `*`, `?`
  /// and `[...]` mean what they mean in a shell.
  std::vector<std::string> parameters = {"all"};

  /// The network that makes y1 while f adapts.
  AnchorKind anchor = AnchorKind::self;
  /// Decay of AnchorKind::ema, from 0 to 1. Unset: 0.99.
  std::optional<double> ema_decay = std::nullopt;
  /// The statistics by which batch normalization in eval mode normalizes, in all passes.
  NormStatistics norm_statistics = NormStatistics::running;
  /// For NormStatistics::blend, the number of samples that the running statistics count as. Unset: 16.
  std::optional<double> norm_prior = std::nullopt;
  /// Which prediction of the adapted network is the answer.
  PredictionKind prediction = PredictionKind::first;

  /// Steps end early if the loss has not fallen below its minimum so far by more than this fraction, `patience` times
  /// in a row. Waits for the device at each step. Unset: all steps are taken.
  std::optional<double> tolerance = std::nullopt;
  /// The number of evaluations in a row without such a fall after which steps end; see `tolerance`. Unset: 1.
  std::optional<std::int64_t> patience = std::nullopt;
  /// Only samples whose uncertainty() exceeds it adapt; the others contribute neither to the loss nor to gradients. In
  /// the units of uncertainty(). Engine::calibrate() sets it. Unset: all samples adapt.
  std::optional<double> threshold = std::nullopt;

  /// Whether each sample of the batch adapts weights of its own, as if it were alone. Needs `copy_model`.
  bool per_sample = false;
  /// For `per_sample`, how many samples adapt at once. Unset: as many as fit into half of the free memory.
  std::optional<std::int64_t> chunk_size = std::nullopt;

  /// Whether every call starts from the same weights and leaves them as they were. If false, adapted weights, optimizer
  /// state and anchor are kept from call to call, until Engine::reset().
  bool copy_model = true;
  /// The probability with which each weight goes back to its value at the start after each step: the stochastic
  /// restoration of CoTTA (arXiv 2203.13591).
  double restore_probability = 0;
  /// For `copy_model` false: everything goes back to the start before a batch if m, the moving average over calls of
  /// the loss before the first step, m ← 0.9 m + 0.1 loss, exceeds recovery_factor times its minimum so far; or if a
  /// loss or prediction is not finite. Above 1. Unset: never.
  std::optional<double> recovery_factor = std::nullopt;

  /// Whether calls on a CUDA device may be recorded as CUDA graphs and replayed; by name, "auto" or "off". See Graphs.
  bool cuda_graphs = true;
  /// The dtype of the passes in mixed precision (autocast): at::kBFloat16 or at::kHalf; by name, "bf16" or "fp16".
  /// Unset: the passes run in the model's own precision.
  std::optional<at::ScalarType> amp = std::nullopt;

  /// norm_statistics and norm_prior together.
  Normalization normalization() const { return {norm_statistics, norm_prior}; }

  /// Sets one option by its name. `online` is another name for the opposite of `copy_model`.
  ///
  /// @throws c10::ValueError  for an unknown name or a value out of range
  /// @throws c10::TypeError  for a value of another type. The message names the option, the value and what is accepted
  ///
  /// @code{.cpp}
  /// it3::Options options;
  /// options.set("optimizer_name", "sgd");
  /// options.set("parameters", std::vector<std::string>{"norm"});
  /// options.set("online", true);
  /// assert(!options.copy_model);
  /// @endcode
  void set(std::string_view name, const OptionValue& value);

  /// Checks that no option is given by two names with contradicting values.
  ///
  /// @throws c10::ValueError  if one is
  static void check_spellings(const std::vector<std::pair<std::string, OptionValue>>& settings);

  /// The options that are set, by name, as set() takes them.
  std::vector<std::pair<std::string, OptionValue>> values() const;

  /// Sets several options by name. If that changes a choice, such as the anchor, options that only belong to the
  /// earlier choice, such as ema_decay to the anchor "ema", are unset.
  ///
  /// @throws c10::ValueError  where set() and validate() do
  /// @throws c10::TypeError  where set() does
  ///
  /// @code{.cpp}
  /// it3::Options options{.anchor = it3::AnchorKind::ema, .ema_decay = 0.9};
  /// options.override_with({{"anchor", "self"}, {"num_steps", std::int64_t{1}}});
  /// assert(!options.ema_decay);
  /// @endcode
  void override_with(const std::vector<std::pair<std::string, OptionValue>>& others);

  /// Checks every option, and that they suit one another: a momentum, for example, does not suit Adam.
  ///
  /// @throws c10::ValueError  if they do not
  void validate() const;

  /// Whether all options are equal.
  bool operator==(const Options&) const = default;
};

/// The description of an option, for people and for other languages.
struct OptionInfo {
  std::string name;           ///< as Options::set() takes it
  std::string type;           ///< as Python writes it, such as "float | None"
  std::string accepted;       ///< in words, such as "a number above 0, or None"
  std::string default_text;   ///< as Python writes it
  std::string documentation;  ///< in Markdown
};

/// The descriptions of all options, in the order of README's table.
///
/// @code{.cpp}
/// for (const it3::OptionInfo& option : it3::option_infos()) {
///   std::cout << option.name << ", " << option.accepted << ", " << option.default_text << " by default\n";
/// }
/// @endcode
IT3_API const std::vector<OptionInfo>& option_infos();

/// The name of an optimizer as Options::set takes it.
IT3_API std::string_view to_string(OptimizerKind name);

}  // namespace it3
