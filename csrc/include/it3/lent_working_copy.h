#pragma once

#include <memory>
#include <vector>

#include <it3/export.h>
#include <it3/lent_weights.h>
#include <it3/network.h>

namespace it3 {

/// What is common to working copies that lend the model itself other weights; the passes are the network's own.
class IT3_API LentWorkingCopy : public WorkingCopy {
 public:
  /// @param all  see LentWeights
  LentWorkingCopy(std::vector<at::Tensor> adapted, const std::vector<at::Tensor>& all)
      : weights_(std::move(adapted), all) {}

  const std::vector<at::Tensor>& leaves() const override { return weights_.leaves(); }
  const std::vector<at::Tensor>& values() const override { return weights_.values(); }
  /// What the passes save for their gradients is the model's own tensors: take them while it lives.
  std::unique_ptr<TwoPass> with_constants(const std::vector<at::Tensor>& values) override;
  void commit() override { weights_.commit(); }

 private:
  LentWeights weights_;
};

}  // namespace it3
