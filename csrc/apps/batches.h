#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <it3/backend/inputs.h>
#include <it3/backend/samples.h>

#include "npy.h"

namespace it3::apps {

/// A file's tensors as a network's inputs, in batches of samples. Of a .npy file, a batch at a time is read; a .pt file
/// is in memory as a whole.
class Batches {
 public:
  /// @param path  a .npy file; or a .pt file of a tensor, a tuple or list (positional arguments), which may be nested,
  ///              or a dictionary (keywords)
  /// @param batch_size  0 for all samples at once
  /// @param in_dims, prediction_layout  where the samples lie, see Samples
  ///
  /// Raises c10::Error if the file cannot be read, c10::ValueError if there are no tensors or no samples in it, and
  /// what Samples raises.
  Batches(
      const std::string& path,
      std::int64_t batch_size,
      c10::Device device,
      c10::ScalarType floating_point,
      const std::optional<InDims>& in_dims,
      const Layout& prediction_layout);

  std::int64_t count() const { return samples_ ? (samples_->count() + batch_size_ - 1) / batch_size_ : 1; }

  /// How many samples a batch has, and how many all have; 1 and 1 where all are one batch.
  std::pair<std::int64_t, std::int64_t> share(std::int64_t index) const;

  /// With what all samples share.
  Inputs operator[](std::int64_t index);

 private:
  Inputs batch(std::int64_t index);

  std::optional<NpyReader> npy_;
  Inputs all_;  // of a .npy file, a tensor of its shape, without memory
  std::optional<Samples> samples_;
  std::int64_t batch_size_ = 0;
  c10::Device device_;
  c10::ScalarType floating_point_;
};

}  // namespace it3::apps
