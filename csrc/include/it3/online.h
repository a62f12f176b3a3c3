#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/export.h>
#include <it3/network.h>
#include <it3/optimizer.h>

namespace it3 {

/// What stays from call to call when adapted weights are kept (`copy_model` false): the weights of the start, to go
/// back to, and the optimiser's state, to go on with.
///
/// Weights that somebody else changed since the last call, by training or by loading, are a new start.
class IT3_API Online {
 public:
  /// A copy of the optimiser's state for these parameters, before they are checked out; empty if they, or the
  /// optimiser, are not those of the last call.
  OptimizerState resume(const std::vector<NamedParameter>& adapted, OptimizerName optimizer);

  /// Remembers the state after a call. To be called when the weights have been committed.
  void keep(const std::vector<NamedParameter>& adapted, OptimizerState state);

  /// Writes the weights of the start into the network and forgets everything. Does nothing if nothing was adapted.
  void reset(const Network& network);

  bool empty() const { return start_.empty(); }

  /// The weight of a parameter at the start.
  struct Start {
    std::string name;
    at::Tensor value;
    /// The parameter's version counter and address after the last call; 0 where unknown, as in a copy.
    std::int64_t version = 0;
    const void* address = nullptr;
  };

  const std::vector<Start>& start() const { return start_; }
  const OptimizerState& state() const { return state_; }
  /// The parameters that state() belongs to.
  const std::vector<std::string>& stepped() const { return stepped_; }
  OptimizerName optimizer() const { return optimizer_; }

  /// Puts together what start(), state(), stepped() and optimizer() took apart.
  static Online restore(
      std::vector<Start> start, OptimizerState state, std::vector<std::string> stepped, OptimizerName optimizer);

 private:
  std::vector<Start> start_;
  OptimizerState state_;
  std::vector<std::string> stepped_;
  OptimizerName optimizer_ = OptimizerName::adam;
};

}  // namespace it3
