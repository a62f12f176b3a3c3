#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/backend/optimizer.h>
#include <it3/network.h>

namespace it3 {

/// How far weights have moved from their start.
struct Drift {
  /// The Euclidean norm of the change of all weights together, and its ratio to the norm of the start.
  double distance = 0;
  double relative = 0;
  /// The norm of each parameter's change, by name.
  std::vector<std::pair<std::string, double>> by_parameter = {};
};

/// What stays from call to call when adapted weights are kept (`copy_model` false): the weights of the start, to go
/// back to, the optimizer's state and the anchor, to go on with, and the average of the loss.
///
/// The start belongs to the model: all who adapt one share it, and where one of them goes back, the others forget what
/// they had. Weights that somebody else changed since the last call, by training or by loading, are a new start.
///
/// Calls of adapt() that keep weights, drift() and reset() by threads take turns, those of several Online around one
/// model too. The other functions are for adapt(), in its turn.
class IT3_API Online {
 public:
  /// What a call starts with and changes, one tensor a parameter in each list.
  struct CallState {
    /// Empty if the parameters, or the optimizer, are not those of the last call.
    OptimizerState optimizer = {};
    std::vector<at::Tensor> start = {};
    /// The weights of the anchor "ema"; empty if the parameters are not those of the last call, or it had none.
    std::vector<at::Tensor> average = {};
    /// Of the parameters.
    std::vector<std::string> names = {};
  };

  /// Copies for these parameters, before they are checked out.
  CallState resume(const std::vector<NamedParameter>& adapted, OptimizerKind optimizer);

  /// Remembers the state after a call, and the loss before its first step if it counts for has_collapsed(). To be
  /// called when the weights have been committed.
  void keep(const std::vector<NamedParameter>& adapted, CallState call_state, std::optional<double> loss = {});

  /// Whether a call with this loss before its first step means collapse; see Options::recovery_factor.
  bool has_collapsed(double loss, double recovery_factor) const;

  /// Whether a call has kept weights since the start.
  bool has_moved() const { return !state_.stepped.empty(); }

  /// How far the network's weights are from their start.
  Drift drift(const Network& network) const;

  /// Raises c10::Error where this thread is inside of a call on the network's model, which computes with the weights
  /// that a call which keeps others, or reset(), would write to. To be asked before either.
  static void check_outside_of_calls(const Network& network);

  /// Writes the weights of the start into the network, whoever adapted it, and forgets everything. Writes nothing where
  /// nothing was adapted.
  void reset(const Network& network);

  /// The weight of a parameter at the start.
  struct Start {
    std::string name;
    at::Tensor value;
    /// Whose start it is, which is only looked up, and what tells it from all others; 0 where unknown, as in a file.
    const at::TensorImpl* parameter = nullptr;
    std::uint64_t number = 0;
  };

  /// The moving average of the losses before first steps, and its least value.
  struct LossAverage {
    double average;
    double least;
  };

  /// All that there is, for copies and files.
  struct State {
    std::vector<Start> start = {};
    OptimizerState optimizer = {};
    std::vector<at::Tensor> average = {};
    /// The parameters that the optimizer's state and the average belong to.
    std::vector<std::string> stepped = {};
    OptimizerKind optimizer_name = OptimizerKind::adam;
    std::optional<LossAverage> loss_average = {};
  };
  State state() const;

  /// Writes weights, those of network.parameters() in their order, into the network, and remembers what `state` holds,
  /// which belongs to them.
  void go_back(const Network& network, State state, const std::vector<at::Tensor>& weights);

  explicit Online(State state) : state_(std::move(state)) {}
  Online() = default;

 private:
  LossAverage loss_average_with(double loss) const;
  /// Whether nobody has ended the starts that this one knows.
  bool is_current() const;
  /// Gives starts of a file to the parameters of their names. False if one does not fit.
  bool adopt(const std::vector<NamedParameter>& parameters);

  State state_;
};

}  // namespace it3
