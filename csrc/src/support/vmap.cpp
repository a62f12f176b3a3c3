#include "support/vmap.h"

#include <ATen/ATen.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <c10/util/Exception.h>

namespace it3::detail {

namespace functorch = at::functorch;

namespace {

functorch::DynamicLayer innermost() {
  auto layer = functorch::maybeCurrentDynamicLayer();
  TORCH_INTERNAL_ASSERT(layer.has_value());
  return std::move(*layer);
}

}  // namespace

Vmap::Vmap(c10::SymInt samples) {
  functorch::initAndPushDynamicLayer(
      functorch::TransformType::Vmap, std::move(samples), functorch::RandomnessType::Different);
}

Vmap::~Vmap() { functorch::popDynamicLayerAndDeleteMetadata(); }

at::Tensor Vmap::wrap(const at::Tensor& stacked) {
  return functorch::makeBatched(stacked, /*dim=*/0, innermost().layerId());
}

bool Vmap::is_wrapped(const at::Tensor& t) {
  const auto* const batched = functorch::maybeGetBatchedImpl(t);
  const auto layer = functorch::maybeCurrentDynamicLayer();
  return batched != nullptr && layer && batched->level() == layer->layerId();
}

at::Tensor Vmap::unwrap(const at::Tensor& sample) {
  const functorch::DynamicLayer layer = innermost();
  const bool has_one_each = is_wrapped(sample);
  const WithoutVmap without_vmap;
  if (has_one_each) {
    const auto* const batched = functorch::maybeGetBatchedImpl(sample);
    return batched->value().movedim(batched->bdim(), 0);
  }
  std::vector<c10::SymInt> sizes = sample.sym_sizes().vec();
  sizes.insert(sizes.begin(), layer.batchSize());
  return sample.expand_symint(sizes);
}

WithoutVmap::WithoutVmap()
    : guard_(
          c10::DispatchKeySet(
              {c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::FuncTorchDynamicLayerBackMode})),
      layers_(std::move(functorch::functorchTLSAccessor())) {}

WithoutVmap::~WithoutVmap() { functorch::functorchTLSAccessor() = std::move(layers_); }

}  // namespace it3::detail
