#pragma once

#include <cstdint>

#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <it3/inputs.h>

namespace it3::apps {

/// A file's tensors as a network's inputs, in batches along dimension 0.
class Batches {
 public:
  /// @param value  a tensor, a tuple or list of tensors (positional arguments) or a dictionary (keywords)
  /// @param batch_size  0 for all samples at once
  /// Raises c10::ValueError if there are no tensors or no samples in it.
  Batches(const c10::IValue& value, std::int64_t batch_size, c10::Device device, c10::ScalarType floating_point);

  std::int64_t samples() const { return samples_; }
  std::int64_t count() const { return (samples_ + batch_size_ - 1) / batch_size_; }

  /// Tensors with as many rows as there are samples are cut; others go whole with every batch.
  Inputs operator[](std::int64_t index) const;

 private:
  c10::IValue cut(const c10::IValue& value, std::int64_t index) const;

  Inputs all_;
  std::int64_t samples_ = 0;
  std::int64_t batch_size_ = 0;
  c10::Device device_;
  c10::ScalarType floating_point_;
};

}  // namespace it3::apps
