#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <it3/export.h>

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

}  // namespace it3
