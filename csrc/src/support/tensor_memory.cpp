#include "support/tensor_memory.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/grad_mode.h>

#include "support/map_tensors.h"
#include "support/tensor_identity.h"

namespace it3::detail {
namespace {

std::int64_t size_of(const at::Tensor& t) { return static_cast<std::int64_t>(t.element_size()); }

/// A tensor on a storage, for autograd made of nothing.
at::Tensor on_storage(
    const at::Tensor& like,
    const at::Storage& storage,
    std::int64_t byte,
    at::IntArrayRef sizes,
    at::IntArrayRef strides) {
  at::Tensor t = at::empty({0}, like.options().requires_grad(false));
  t.set_(storage, byte / size_of(like), sizes, strides);
  if (like.is_conj()) t = t.conj();
  if (like.is_neg()) t = at::_neg_view(t);
  return t;
}

/// Whether each byte of a tensor's span is one of its elements', once.
bool is_dense(const at::Tensor& t) { return t.is_non_overlapping_and_dense(); }

/// What tensors are views of, if it is one tensor.
at::Tensor common_base(const std::vector<at::Tensor>& tensors) {
  at::Tensor common;
  for (const at::Tensor& t : tensors) {
    const at::Tensor base = t.is_view() ? at::Tensor(t._base()) : t;
    if (common.defined() && !common.is_same(base)) return {};
    common = base;
  }
  return common;
}

void collect(const c10::IValue& value, std::vector<at::Tensor>& tensors, std::unordered_set<const void*>& seen) {
  if (value.isTensor()) {
    const at::Tensor& t = value.toTensor();
    if (t.defined() && seen.insert(t.unsafeGetTensorImpl()).second) tensors.push_back(t);
    return;
  }
  // What is held twice is gone through once.
  const bool is_container = value.isTuple() || value.isList() || value.isGenericDict() || value.isObject();
  if (!is_container || !seen.insert(value.internalToPointer()).second) return;
  if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) collect(element, tensors, seen);
  } else if (value.isTensorList()) {
    for (const at::Tensor& t : value.toTensorVector()) collect(t, tensors, seen);
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) collect(element, tensors, seen);
  } else if (value.isGenericDict()) {
    for (const auto& item : value.toGenericDict()) collect(item.value(), tensors, seen);
  } else if (value.isObject()) {
    for (const c10::IValue& slot : value.toObjectRef().slots()) collect(slot, tensors, seen);
  }
}

}  // namespace

MemorySpan span_of(const at::Tensor& tensor) {
  const bool has_memory =
      tensor.layout() == at::kStrided && tensor.has_storage() && tensor.numel() > 0 && !tensor.is_quantized();
  if (!has_memory) return {};
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  const std::int64_t begin = tensor.storage_offset();
  return {tensor.storage().unsafeGetStorageImpl(), begin * size_of(tensor), (begin + last + 1) * size_of(tensor)};
}

bool share_memory(const at::Tensor& a, const at::Tensor& b) {
  const MemorySpan of_a = span_of(a), of_b = span_of(b);
  if (of_a.storage == nullptr || of_a.storage != of_b.storage) return false;
  if (of_a.end <= of_b.begin || of_b.end <= of_a.begin) return false;
  if ((is_dense(a) && is_dense(b)) || size_of(a) != size_of(b)) return true;
  // Such as the even and the odd columns of a matrix.
  const std::int64_t begin = std::min(of_a.begin, of_b.begin) / size_of(a);
  const std::int64_t end = std::max(of_a.end, of_b.end) / size_of(a);
  const at::Tensor marks = at::zeros({end - begin}, at::kBool);
  marks.as_strided(a.sizes(), a.strides(), a.storage_offset() - begin).fill_(true);
  return marks.as_strided(b.sizes(), b.strides(), b.storage_offset() - begin).any().item<bool>();
}

MemoryCopies::MemoryCopies(const std::vector<at::Tensor>& tensors) {
  std::map<const void*, std::vector<at::Tensor>> by_storage;
  for (const at::Tensor& t : tensors) {
    const void* const storage = span_of(t).storage;
    if (storage == nullptr) {
      copies_.try_emplace(t.unsafeGetTensorImpl(), t.clone());
    } else {
      by_storage[storage].push_back(t);
    }
  }
  for (const auto& [storage, together] : by_storage) copy_together(together);
}

/// Copies what lies in one storage.
void MemoryCopies::copy_together(const std::vector<at::Tensor>& tensors) {
  const auto identity = identity_of(tensors[0]);
  const bool are_one =
      std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& t) { return identity_of(t) == identity; });
  std::map<TensorIdentity, at::Tensor> known;
  const auto add = [&](const at::Tensor& t, const auto& make) {
    at::Tensor& copy = known[identity_of(t)];
    if (!copy.defined()) copy = make();
    copies_.try_emplace(t.unsafeGetTensorImpl(), copy);
  };
  if (are_one) {
    for (const at::Tensor& t : tensors) add(t, [&] { return t.clone(); });
    return;
  }
  const auto has_gradient = [](const at::Tensor& t) { return t.requires_grad(); };
  if (std::any_of(tensors.begin(), tensors.end(), has_gradient) && at::GradMode::is_enabled()) {
    const at::Tensor base = common_base(tensors);
    const bool is_one_type = base.defined() && std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& t) {
                               return t.scalar_type() == base.scalar_type() && !t.is_conj() && !t.is_neg();
                             });
    if (is_one_type && is_dense(base)) {
      const at::Tensor copy = base.clone();
      const std::int64_t moved = copy.storage_offset() - base.storage_offset();
      for (const at::Tensor& t : tensors) {
        add(t, [&] {
          return t.is_same(base) ? copy : copy.as_strided(t.sizes(), t.strides(), t.storage_offset() + moved);
        });
      }
      return;
    }
    // Where this is wrong, a cut gives other results than the module, which is looked at.
    for (const at::Tensor& t : tensors) add(t, [&] { return t.clone(); });
    return;
  }
  constexpr std::int64_t widest = 16;  // bytes of an element; offsets stay multiples of an element's
  std::int64_t begin = span_of(tensors[0]).begin, end = 0;
  for (const at::Tensor& t : tensors) {
    const MemorySpan span = span_of(t);
    begin = std::min(begin, span.begin);
    end = std::max(end, span.end);
  }
  begin = begin / widest * widest;
  const at::NoGradGuard no_grad;
  const auto bytes = tensors[0].options().dtype(at::kByte).requires_grad(false);
  const at::Tensor own = at::empty({0}, bytes).set_(tensors[0].storage(), begin, {end - begin}, {1});
  const at::Tensor copy = own.clone();
  for (const at::Tensor& t : tensors) {
    const std::int64_t byte = t.storage_offset() * size_of(t) - begin;
    add(t, [&] { return on_storage(t, copy.storage(), byte, t.sizes(), t.strides()); });
  }
}

at::Tensor MemoryCopies::operator()(const at::Tensor& tensor) const {
  const auto found = copies_.find(tensor.unsafeGetTensorImpl());
  return found == copies_.end() ? tensor : found->second;
}

std::vector<at::Tensor> tensors_in(const c10::IValue& value) {
  std::vector<at::Tensor> tensors;
  std::unordered_set<const void*> seen;
  collect(value, tensors, seen);
  return tensors;
}

std::vector<c10::IValue> copies_of_written(std::vector<c10::IValue> values, const std::vector<bool>& is_written) {
  if (std::find(is_written.begin(), is_written.end(), true) == is_written.end()) return values;
  std::vector<std::vector<at::Tensor>> tensors;
  std::unordered_set<const void*> written;
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensors.push_back(tensors_in(values[i]));
    if (!is_written[i]) continue;
    for (const at::Tensor& t : tensors[i]) written.insert(span_of(t).storage);
  }
  written.erase(nullptr);
  std::vector<at::Tensor> copied;
  std::vector<bool> holds_copied = is_written;
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (const at::Tensor& t : tensors[i]) {
      if (!is_written[i] && !written.contains(span_of(t).storage)) continue;
      copied.push_back(t);
      holds_copied[i] = true;
    }
  }
  const MemoryCopies copies(copied);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (holds_copied[i]) values[i] = map_tensors(values[i], copies);
  }
  return values;
}

at::Tensor same_place_in(
    const at::Tensor& copy, const at::Tensor& own, const at::Tensor& other, std::optional<std::int64_t> samples) {
  const MemorySpan whole = span_of(own), part = span_of(other);
  if (!is_dense(own) || part.begin < whole.begin || part.end > whole.end) return {};
  std::vector<std::int64_t> sizes = other.sizes().vec(), strides = other.strides().vec();
  if (samples) {
    const std::int64_t step = whole.end - whole.begin;
    if (step % size_of(other) != 0) return {};
    sizes.insert(sizes.begin(), *samples);
    strides.insert(strides.begin(), step / size_of(other));
  }
  const std::int64_t byte = copy.storage_offset() * size_of(copy) + part.begin - whole.begin;
  if (byte % size_of(other) != 0) return {};
  return on_storage(other, copy.storage(), byte, sizes, strides);
}

}  // namespace it3::detail
