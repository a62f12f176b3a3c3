#include "support/write_all.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "support/write_count.h"

namespace it3::detail {
namespace {

/// Whether a tensor's memory is one block of the CPU's, which can be written to without torch.
bool is_block(const at::Tensor& t) {
  return t.is_cpu() && t.layout() == at::kStrided && t.is_non_overlapping_and_dense() && !t.is_quantized() &&
         !t.is_conj() && !t.is_neg() && counts_writes(t);
}

/// A value as it has to lie in a block.
at::Tensor laid_out_as(const at::Tensor& block, const at::Tensor& value) {
  const bool is_alike = is_block(value) && value.scalar_type() == block.scalar_type() &&
                        value.sizes() == block.sizes() && value.strides() == block.strides();
  return is_alike ? value : at::empty_strided(block.sizes(), block.strides(), block.options()).copy_(value);
}

}  // namespace

void write_all(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& values) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> to, from;
  to.reserve(tensors.size());
  from.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) to.push_back(tensor.detach());  // unlike a leaf, it may be written to
  const bool are_blocks = std::all_of(to.begin(), to.end(), is_block);
  if (are_blocks) {
    for (std::size_t i = 0; i < to.size(); ++i) from.push_back(laid_out_as(to[i], values[i].detach()));
    for (std::size_t i = 0; i < to.size(); ++i) {  // which cannot fail
      std::memcpy(to[i].mutable_data_ptr(), from[i].const_data_ptr(), to[i].nbytes());
      to[i].unsafeGetTensorImpl()->bump_version();
    }
    return;
  }
  for (const at::Tensor& tensor : to) from.push_back(tensor.clone());
  for (std::size_t i = 0; i < to.size(); ++i) {
    try {
      to[i].copy_(values[i]);
    } catch (...) {
      const std::exception_ptr error = std::current_exception();
      for (std::size_t k = 0; k <= i; ++k) to[k].copy_(from[k]);
      std::rethrow_exception(error);
    }
  }
}

}  // namespace it3::detail
