#include <it3/backend/swapped_working_copy.h>

namespace it3 {
namespace {

/// Passes with constants in place of the leaves.
class PassesWithConstants : public TwoPass {
 public:
  PassesWithConstants(TwoPass& passes, SwappedWeights& weights, const std::vector<at::Tensor>& values)
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
  SwappedWeights& weights_;
};

}  // namespace

std::unique_ptr<TwoPass> SwappedWorkingCopy::with_constants(const std::vector<at::Tensor>& values) {
  return std::make_unique<PassesWithConstants>(*this, weights_, values);
}

}  // namespace it3
