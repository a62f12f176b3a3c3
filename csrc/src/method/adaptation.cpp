#include <it3/adaptation.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <it3/backend/sample_distances.h>

namespace it3 {

at::Tensor Adaptation::loss() const {
  return steps() == 0 ? at::zeros(losses.sizes().slice(1), losses.options()) : losses[steps() - 1];
}

at::Tensor Adaptation::uncertainty() const {
  TORCH_CHECK_VALUE(
      second.defined(), "this adaptation has no y1 to tell its uncertainty by; call adapt() with details");
  return sample_distances(second, first, prediction_layout, feeds_probabilities);
}

}  // namespace it3
