#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/export.h>
#include <it3/network.h>

namespace it3 {

/// Lends a model other storage for its parameters or buffers. While it lives, `adapted` hold copies of their values and
/// the others of `all` require no gradient; its destructor gives every tensor its own storage and flag back. Only
/// pointers move, so the values are restored bit for bit, and no version counter of the model's changes.
class IT3_API LentWeights {
 public:
  explicit LentWeights(std::vector<at::Tensor> adapted, const std::vector<at::Tensor>& all = {});
  ~LentWeights();
  LentWeights(const LentWeights&) = delete;
  LentWeights& operator=(const LentWeights&) = delete;

  /// The model's own tensors.
  const std::vector<at::Tensor>& leaves() const { return adapted_; }

  /// What they hold meanwhile. Changed in place by whoever adapts.
  const std::vector<at::Tensor>& values() const { return values_; }

  /// Writes the values into the model's own storage.
  void commit();

  /// Puts other values, which are constants then, into the leaves until clear_constants().
  void set_constants(const std::vector<at::Tensor>& values);
  void clear_constants();

 private:
  std::vector<at::Tensor> adapted_;
  std::vector<at::Tensor> fixed_;
  std::vector<at::Tensor> values_;
  std::vector<at::Tensor> own_;  // each shares the storage that its parameter had
};

/// Passes of a network whose weights are lent, with constants in place of the leaves. The passes' saved tensors are the
/// model's own, so that their gradients must be taken while it lives.
class IT3_API PassesWithConstants : public TwoPass {
 public:
  PassesWithConstants(TwoPass& passes, LentWeights& weights, const std::vector<at::Tensor>& values)
      : passes_(passes), weights_(weights) {
    weights_.set_constants(values);
  }
  ~PassesWithConstants() override { weights_.clear_constants(); }
  PassesWithConstants(const PassesWithConstants&) = delete;
  PassesWithConstants& operator=(const PassesWithConstants&) = delete;

  FirstPass predict(const Inputs& inputs, const Inject* inject) override { return passes_.predict(inputs, inject); }
  FirstPass prepare(const Inputs& inputs) override { return passes_.prepare(inputs); }
  at::Tensor resume(const Inputs& inputs, const FirstPass& first, const Inject* inject) override {
    return passes_.resume(inputs, first, inject);
  }

 private:
  TwoPass& passes_;
  LentWeights& weights_;
};

}  // namespace it3
