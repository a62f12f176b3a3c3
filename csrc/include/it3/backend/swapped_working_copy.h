#pragma once

#include <memory>
#include <vector>

#include <it3/backend/export.h>
#include <it3/backend/model_lock.h>
#include <it3/backend/swapped_weights.h>
#include <it3/network.h>

namespace it3 {

/// What is common to working copies that swap other weights into the model itself; the passes are the network's own.
class IT3_API SwappedWorkingCopy : public WorkingCopy {
 public:
  /// @param adapted  see SwappedWeights
  /// @param others  see SwappedWeights
  /// @param writable  see SwappedWeights
  /// @param turn  is held until the weights are back
  SwappedWorkingCopy(
      const std::vector<NamedParameter>& adapted,
      const std::vector<at::Tensor>& others,
      const std::vector<at::Tensor>& writable = {},
      ModelLock::Turn turn = {})
      : turn_(std::move(turn)), weights_(adapted, others, writable) {}

  const std::vector<at::Tensor>& leaves() const override { return weights_.leaves(); }
  const std::vector<at::Tensor>& values() const override { return weights_.values(); }
  /// What the passes save for their gradients is the model's own tensors: take them while it lives.
  std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) override;
  void commit() override { weights_.commit(); }

 protected:
  /// See SwappedWeights::written().
  std::vector<at::Tensor> written() const { return weights_.written(); }

 private:
  ModelLock::Turn turn_;
  SwappedWeights weights_;
};

}  // namespace it3
