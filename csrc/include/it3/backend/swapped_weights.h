#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/backend/export.h>
#include <it3/network.h>

namespace it3 {

/// Copies of tensors. The copies of tensors that share memory share memory in the same way.
IT3_API std::vector<at::Tensor> copies_with_shared_memory(const std::vector<at::Tensor>& tensors);

/// Restores the values of tensors when it is destroyed, without throwing. It is for tensors that were made in inference
/// mode: their storage cannot be swapped, but they can be written to.
class IT3_API KeptValues {
 public:
  KeptValues() = default;
  ~KeptValues();
  KeptValues(const KeptValues&) = delete;
  KeptValues& operator=(const KeptValues&) = delete;

  void keep(const at::Tensor& tensor);

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> kept_;  // and what it held
};

/// Swaps other storage into a model's parameters and buffers. While it lives, the adapted parameters hold copies of
/// their values, tensors that share memory with one of them share the copy, and everything that does not adapt requires
/// no gradient. Its destructor, which does not throw, gives every tensor its own storage and flag back. Only pointers
/// move, so values are restored bit for bit, and no version counter of the model changes.
class IT3_API SwappedWeights {
 public:
  /// Tensors that were made in inference mode are not swapped, but get their values back.
  ///
  /// @param adapted  the parameters that adapt: they hold copies, and are the leaves
  /// @param others  the model's other tensors, with or without `adapted`
  /// @param writable  tensors that the model itself may write to; they hold copies too
  /// @throws c10::ValueError  if something adapts and a tensor was made in inference mode; if two adapted parameters
  ///                          share memory; and if an adapted parameter is not contiguous and shares memory with
  ///                          another tensor
  explicit SwappedWeights(
      const std::vector<NamedParameter>& adapted,
      const std::vector<at::Tensor>& others = {},
      const std::vector<at::Tensor>& writable = {});
  ~SwappedWeights();
  SwappedWeights(const SwappedWeights&) = delete;
  SwappedWeights& operator=(const SwappedWeights&) = delete;

  /// The model's own tensors.
  const std::vector<at::Tensor>& leaves() const { return adapted_; }

  /// What they hold meanwhile. Changed in place by whoever adapts.
  const std::vector<at::Tensor>& values() const { return values_; }

  /// Of the tensors that hold copies, those that the model itself has written to so far. Of an adapted one, only what
  /// autograd was told of.
  std::vector<at::Tensor> written() const;

  /// Writes the values into the model's own storage.
  void commit();

  /// Puts other values, which are constants then, into the leaves until clear_constants().
  void set_constants(const std::vector<at::Tensor>& values);
  void clear_constants();

 private:
  /// A tensor of the model's that holds something else. The adapted ones come first.
  struct Swap {
    at::Tensor tensor;
    at::Tensor own;  // shares the storage that the tensor had
    at::Tensor copy;
    bool requires_grad;
    bool is_leaf;
    bool is_writable;
    std::int64_t version;
  };

  static void give_back(const Swap& swapped) noexcept;

  std::vector<at::Tensor> adapted_;
  std::vector<at::Tensor> values_;
  std::vector<at::Tensor> fixed_;  // hold their own, but require no gradient
  KeptValues unlent_;              // of what was made in inference mode
  std::vector<Swap> swapped_;
  std::vector<std::vector<std::size_t>> overlapping_;  // indices in swapped_
};

}  // namespace it3
