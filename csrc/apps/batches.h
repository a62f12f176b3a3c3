#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <it3/backend/inputs.h>
#include <it3/backend/samples.h>

namespace it3::apps {

/// A file's tensors as a network's inputs, in batches of samples.
class Batches {
 public:
  /// @param value  a tensor, a tuple or list of tensors (positional arguments) or a dictionary (keywords)
  /// @param batch_size  0 for all samples at once
  /// @param in_dims, prediction_layout  where the samples lie, see Samples
  /// Raises c10::ValueError if there are no tensors or no samples in it, and what Samples raises.
  Batches(
      const c10::IValue& value,
      std::int64_t batch_size,
      c10::Device device,
      c10::ScalarType floating_point,
      const std::optional<InDims>& in_dims,
      const Layout& prediction_layout);

  std::int64_t count() const { return samples_ ? (samples_->count() + batch_size_ - 1) / batch_size_ : 1; }

  /// With what all samples share.
  Inputs operator[](std::int64_t index) const;

 private:
  Inputs all_;
  std::optional<Samples> samples_;  // nothing where all are one batch
  std::int64_t batch_size_ = 0;
  c10::Device device_;
  c10::ScalarType floating_point_;
};

}  // namespace it3::apps
