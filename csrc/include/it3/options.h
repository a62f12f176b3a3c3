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
/// - self: f itself, so that both predictions are pulled toward one another (torch-ttt).
/// - frozen: f as it was before anything adapted. Gradients reach f through y0 alone, so that it cannot learn to accept
///   a wrong y0 (IT3, arXiv 2410.04201).
/// - frozen_tail: f as it was behind the layer, on the features of f as it is: gradients reach f through the features
///   too (the authors' program for MNIST freezes its tail alone).
/// - ema: a moving average of f's weights, F <- ema_decay F + (1 - ema_decay) f after each step (the paper's online
///   variant).
enum class AnchorKind { self, frozen, frozen_tail, ema };

/// Which of the adapted network's predictions is the answer: y0, y1, or their mean.
enum class PredictionKind { first, second, mean };

/// What Options::set takes: the kinds of value that a dictionary, a command line or a file can hold.
using OptionValue = std::
    variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<double>, std::vector<std::string>>;

/// How the inner loop adapts: the options of docs/how_to/options.md, by their names. The defaults are three steps of
/// Adam at a learning rate that is small enough to harm no network. What is unset has the default that its
/// documentation says; see option_infos().
struct IT3_API Options {
  OptimizerKind optimizer_name = OptimizerKind::adam;
  std::int64_t num_steps = 3;
  double lr = 1e-5;
  std::optional<std::pair<double, double>> betas = std::nullopt;
  std::optional<double> eps = std::nullopt;
  std::optional<double> weight_decay = std::nullopt;
  std::optional<double> momentum = std::nullopt;
  std::optional<double> max_grad_norm = std::nullopt;
  std::vector<std::string> parameters = {"all"};

  AnchorKind anchor = AnchorKind::self;
  std::optional<double> ema_decay = std::nullopt;
  NormStatistics norm_statistics = NormStatistics::running;
  std::optional<double> norm_prior = std::nullopt;
  PredictionKind prediction = PredictionKind::first;

  std::optional<double> tolerance = std::nullopt;
  std::optional<std::int64_t> patience = std::nullopt;
  std::optional<double> threshold = std::nullopt;

  bool per_sample = false;
  std::optional<std::int64_t> chunk_size = std::nullopt;

  bool copy_model = true;
  double restore_probability = 0;
  std::optional<double> recovery_factor = std::nullopt;

  /// True is "auto", false is "off"; see Graphs.
  bool cuda_graphs = true;
  /// at::kBFloat16 is "bf16", at::kHalf is "fp16".
  std::optional<at::ScalarType> amp = std::nullopt;

  /// norm_statistics and norm_prior.
  Normalization normalization() const { return {norm_statistics, norm_prior}; }

  /// Sets one option by its name; `online` is another spelling of the opposite of `copy_model`.
  /// Raises c10::ValueError for an unknown name or a value out of range, c10::TypeError for a value of another type;
  /// the message names the option, the value and what is accepted.
  void set(std::string_view name, const OptionValue& value);

  /// Raises c10::ValueError if one option is given in two spellings that contradict one another.
  static void check_spellings(const std::vector<std::pair<std::string, OptionValue>>& settings);

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

/// What is known of an option, for people and for other languages.
struct OptionInfo {
  std::string name;
  std::string type;          // as Python writes it, such as "float | None"
  std::string accepted;      // in words, such as "a number above 0, or None"
  std::string default_text;  // as Python writes it
  std::string documentation;
};

/// All options, in the order in which they are documented.
IT3_API const std::vector<OptionInfo>& option_infos();

/// The name of an optimizer as Options::set takes it.
IT3_API std::string_view to_string(OptimizerKind name);

}  // namespace it3
