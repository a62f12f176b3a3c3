#include <it3/adaptation.h>

#include <ATen/ATen.h>

namespace it3 {

at::Tensor Adaptation::loss() const {
  return steps() == 0 ? at::zeros(losses.sizes().slice(1), losses.options()) : losses[steps() - 1];
}

}  // namespace it3
