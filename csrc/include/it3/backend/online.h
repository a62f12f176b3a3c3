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

/// How far weights have moved from their start; see Engine::drift().
struct Drift {
  /// The Euclidean norm of the change of all adapted weights together.
  double distance = 0;
  /// `distance` divided by the norm of these weights at the start.
  double relative = 0;
  /// The Euclidean norm of each parameter's change, by name.
  std::vector<std::pair<std::string, double>> by_parameter = {};
};

/// What stays from call to call if adapted weights are kept (Options::copy_model false): the weights at the start, to
/// go back to; the optimizer's state and the anchor, to go on with; and the moving average of the loss.
///
/// The start belongs to the model. All objects that adapt the model share it, and if one of them goes back to it, the
/// others forget what they kept. If weights were changed by other means since the last call, by training or by loading,
/// they are a new start.
///
/// In several threads, calls of adapt() that keep weights, of drift() and of reset() take turns, those of several
/// Online objects around one model included. The other functions are for adapt() to call.
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Method method{
///     .embed = [](const at::Tensor& y0, const at::Tensor&) { return y0.mean(1, true); },
///     .combine = [](const at::Tensor& features, const at::Tensor& e) { return it3::broadcast_add(features, e); },
///     .distance = it3::distance_by_name("mse")};
/// it3::Options options{.copy_model = false};
/// it3::Online online;
/// it3::adapt({network, method, options, it3::Inputs(x), &online});
/// std::cout << "moved by " << online.drift(network).distance << '\n';
/// online.reset(network);
/// @endcode
class IT3_API Online {
 public:
  /// What a call starts from and changes. Each list has one tensor for each parameter.
  struct CallState {
    /// The optimizer's state; empty if the parameters or the optimizer are not those of the last call.
    OptimizerState optimizer = {};
    /// The weights at the start.
    std::vector<at::Tensor> start = {};
    /// The weights of the anchor "ema"; empty if the parameters are not those of the last call, or it had no such
    /// anchor.
    std::vector<at::Tensor> average = {};
    /// The names of the parameters.
    std::vector<std::string> names = {};
  };

  /// Returns copies for a call that adapts these parameters, before it checks them out.
  CallState resume(const std::vector<NamedParameter>& adapted, OptimizerKind optimizer);

  /// Remembers the state after a call, once its weights are committed.
  ///
  /// @param adapted  the parameters that the call adapted
  /// @param call_state  what resume() returned, as the call changed it
  /// @param loss  the loss before the first step, for has_collapsed(); unset if it is not watched
  void keep(const std::vector<NamedParameter>& adapted, CallState call_state, std::optional<double> loss = {});

  /// Whether the network has collapsed, judging by a call's loss before its first step: whether the moving average of
  /// these losses exceeds `recovery_factor` times its minimum. See Options::recovery_factor.
  bool has_collapsed(double loss, double recovery_factor) const;

  /// Whether any call has kept weights since the start.
  bool has_moved() const { return !state_.stepped.empty(); }

  /// How far the network's weights are from their start.
  Drift drift(const Network& network) const;

  /// Checks that this thread is not inside of a call on the network's model. Call it before reset(), and before a call
  /// that keeps weights: both write to weights that an outer call would still compute with.
  ///
  /// @throws c10::Error  if this thread is inside of such a call
  static void check_outside_of_calls(const Network& network);

  /// Writes the weights of the start into the network, also if another object adapted it, and forgets everything. Does
  /// nothing if nothing has adapted.
  void reset(const Network& network);

  /// The value of a parameter at the start.
  struct Start {
    std::string name;  ///< the parameter's name
    at::Tensor value;  ///< a copy
    /// The parameter, as a key that is never dereferenced; null if unknown, as in a file.
    const at::TensorImpl* parameter = nullptr;
    /// What tells this start from all others; 0 if unknown, as in a file.
    std::uint64_t number = 0;
  };

  /// The moving average of the losses before first steps, and its minimum so far.
  struct LossAverage {
    double average;  ///< the moving average
    double least;    ///< its minimum so far
  };

  /// Everything that an Online holds, for copies and files.
  struct State {
    /// The weights at the start.
    std::vector<Start> start = {};
    /// The optimizer's state.
    OptimizerState optimizer = {};
    /// The weights of the anchor "ema".
    std::vector<at::Tensor> average = {};
    /// The names of the parameters that the optimizer's state and the average belong to.
    std::vector<std::string> stepped = {};
    /// The optimizer of the last call.
    OptimizerKind optimizer_name = OptimizerKind::adam;
    /// Unset until a call with Options::recovery_factor.
    std::optional<LossAverage> loss_average = {};
  };
  /// Everything that it holds; empty if the start has changed since.
  State state() const;

  /// Writes weights into the network, and remembers a state that belongs to them.
  ///
  /// @param network  the network
  /// @param state  what state() has returned
  /// @param weights  for network.parameters(), in their order
  void go_back(const Network& network, State state, const std::vector<at::Tensor>& weights);

  /// One that goes on from a state.
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
