#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <it3/export.h>

namespace it3 {

/// The optimisers of the inner loop, with the update rules of torch.optim.
enum class OptimizerName { adam, adamw, sgd, rmsprop, adagrad };

/// What Options::set takes: the kinds of value that a dictionary, a command line or a file can hold.
using OptionValue = std::
    variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<double>, std::vector<std::string>>;

/// How the inner loop adapts. The defaults are torch-ttt's: three steps of Adam at a learning rate of 1e-2.
struct IT3_API Options {
  OptimizerName optimizer_name = OptimizerName::adam;

  /// Optimiser steps a call; 0 gives the plain prediction.
  std::int64_t num_steps = 3;

  /// Learning rate.
  double lr = 1e-2;

  /// Decay rates of Adam's and AdamW's two moments. Unset: (0.9, 0.999).
  std::optional<std::pair<double, double>> betas = std::nullopt;

  /// Added to the denominator by every optimiser but SGD. Unset: 1e-8, for Adagrad 1e-10.
  std::optional<double> eps = std::nullopt;

  /// L2 penalty; AdamW decays the weights themselves. Unset: 0, for AdamW 1e-2.
  std::optional<double> weight_decay = std::nullopt;

  /// Momentum of SGD and RMSprop. Unset: 0.
  std::optional<double> momentum = std::nullopt;

  /// True: every call starts from the same weights and leaves them as they were. False: adapted weights and the
  /// optimiser's state are kept from call to call.
  bool copy_model = true;

  /// If set, gradients are scaled down to this Euclidean norm over all parameters.
  std::optional<double> max_grad_norm = std::nullopt;

  /// Which parameters adapt: {"all"}, {"norm"} (scales and shifts of normalisation layers), or patterns of dotted
  /// names. A pattern selects a parameter if it matches its name or the name of a module around it; `*`, `?` and
  /// `[...]` mean what they mean in a shell.
  std::vector<std::string> parameters = {"all"};

  /// Sets one option by its name.
  /// Raises c10::ValueError for an unknown name or a value out of range, c10::TypeError for a value of another type;
  /// the message names the option, the value and what is accepted.
  void set(std::string_view name, const OptionValue& value);

  /// The options that are set, by name, as set() takes them.
  std::vector<std::pair<std::string, OptionValue>> values() const;

  /// Checks what only all options together can tell, such as a momentum given to Adam.
  /// Raises c10::ValueError.
  void validate() const;
};

/// The name of an optimiser as Options::set takes it.
IT3_API std::string_view to_string(OptimizerName name);

}  // namespace it3
