#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace it3::detail {

/// The bytes of a storage between a tensor's first and its last element.
struct MemorySpan {
  const void* storage = nullptr;  // null for tensors that have none, which share no memory
  std::int64_t begin = 0, end = 0;
};

MemorySpan span_of(const at::Tensor& tensor);

/// Whether two tensors have an element's memory in common.
bool share_memory(const at::Tensor& a, const at::Tensor& b);

/// Copies of some tensors that share memory with one another where the tensors do. Gradients flow through them. Other
/// tensors are their own copies.
class MemoryCopies {
 public:
  MemoryCopies() = default;
  explicit MemoryCopies(const std::vector<at::Tensor>& tensors);

  at::Tensor operator()(const at::Tensor& tensor) const;

 private:
  void copy_together(const std::vector<at::Tensor>& tensors);

  std::unordered_map<const c10::TensorImpl*, at::Tensor> copies_;
};

/// The tensors in a value, in tuples, lists, dicts and objects too, each once.
std::vector<at::Tensor> tensors_in(const c10::IValue& value);

/// Values of which some are going to be written to: those, and the others in the same memory, are copied.
std::vector<c10::IValue> copies_of_written(std::vector<c10::IValue> values, const std::vector<bool>& is_written);

/// A tensor that lies in `copy` as `other` lies in `own`, without gradients: `copy` is a copy of `own`, or `samples` of
/// them stacked, with the same strides. Undefined if `other` is not within `own`, or `own` not without gaps.
at::Tensor same_place_in(
    const at::Tensor& copy, const at::Tensor& own, const at::Tensor& other, std::optional<std::int64_t> samples);

}  // namespace it3::detail
