#include "support/shared_memory.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <optional>
#include <tuple>

#include <ATen/ATen.h>

namespace it3::detail {
namespace {

struct Range {
  std::size_t index;
  c10::Device device;
  std::uintptr_t begin, end;
};

/// Where a tensor's elements lie; nothing for those without memory of the usual kind.
std::optional<Range> range_of(const at::Tensor& t, std::size_t index) {
  if (!t.defined() || t.layout() != at::kStrided || t.is_nested() || !t.has_storage() || t.numel() == 0) return {};
  const void* const storage = t.storage().data();
  if (storage == nullptr) return {};
  std::int64_t last = 0;
  for (std::int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  const auto size = static_cast<std::uintptr_t>(t.element_size());
  const auto begin = reinterpret_cast<std::uintptr_t>(storage) + static_cast<std::uintptr_t>(t.storage_offset()) * size;
  return Range{index, t.device(), begin, begin + (static_cast<std::uintptr_t>(last) + 1) * size};
}

/// A tensor like another one in a storage, for autograd made of nothing.
at::Tensor view_of(const c10::Storage& storage, std::int64_t offset, const at::Tensor& like) {
  at::Tensor view =
      at::empty({0}, like.options().requires_grad(false)).set_(storage, offset, like.sizes(), like.strides());
  if (like.is_conj()) view = at::_conj(view);
  if (like.is_neg()) view = at::_neg_view(view);
  return view;
}

}  // namespace

std::vector<std::vector<std::size_t>> overlapping(const std::vector<at::Tensor>& tensors) {
  std::vector<Range> ranges;
  ranges.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (const auto range = range_of(tensors[i], i)) ranges.push_back(*range);
  }
  const auto place = [](const Range& r) { return std::make_tuple(r.device.type(), r.device.index(), r.begin); };
  std::sort(ranges.begin(), ranges.end(), [&](const Range& a, const Range& b) { return place(a) < place(b); });
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t first = 0; first < ranges.size();) {
    std::uintptr_t end = ranges[first].end;
    std::size_t next = first + 1;
    for (; next < ranges.size() && ranges[next].device == ranges[first].device && ranges[next].begin < end; ++next) {
      end = std::max(end, ranges[next].end);
    }
    if (next - first > 1) {
      auto& group = groups.emplace_back();
      for (; first < next; ++first) group.push_back(ranges[first].index);
      std::sort(group.begin(), group.end());
    }
    first = next;
  }
  return groups;
}

std::vector<at::Tensor> copies_of_group(const std::vector<at::Tensor>& group) {
  constexpr std::uintptr_t widest_element = 16;
  std::vector<Range> ranges;
  std::uintptr_t begin = UINTPTR_MAX, end = 0;
  for (const at::Tensor& t : group) {
    const auto range = range_of(t, 0);
    if (!range) continue;  // those of a group have one
    ranges.push_back(*range);
    begin = std::min(begin, ranges.back().begin);
    end = std::max(end, ranges.back().end);
  }
  // As far from a multiple of every element's size as the memory itself.
  const std::uintptr_t padding = begin % widest_element;
  const auto length = static_cast<std::int64_t>(end - begin);
  const auto bytes = group.front().options().dtype(at::kByte).requires_grad(false);
  const at::Tensor copy = at::empty({static_cast<std::int64_t>(padding) + length}, bytes);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that a tensor told
  const at::Tensor memory = at::from_blob(reinterpret_cast<void*>(begin), {length}, bytes);
  copy.narrow(0, static_cast<std::int64_t>(padding), length).copy_(memory);
  std::vector<at::Tensor> copies;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const at::Tensor& t = group[i];
    const auto offset = (ranges[i].begin - begin + padding) / static_cast<std::uintptr_t>(t.element_size());
    copies.push_back(view_of(copy.storage(), static_cast<std::int64_t>(offset), t));
  }
  return copies;
}

std::vector<at::Tensor> copies_side_by_side(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copies(tensors.size());
  std::map<const void*, std::vector<std::size_t>> by_storage;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].defined()) continue;
    if (tensors[i].is_cuda() && range_of(tensors[i], i)) by_storage[tensors[i].storage().data()].push_back(i);
  }
  for (const auto& [address, places] : by_storage) {
    const c10::Storage& storage = tensors[places.front()].storage();
    const auto size = static_cast<std::int64_t>(storage.nbytes());
    const auto filled = std::accumulate(places.begin(), places.end(), std::int64_t{0}, [&](auto sum, std::size_t i) {
      return sum + static_cast<std::int64_t>(tensors[i].nbytes());
    });
    if (places.size() < 2 || filled < size / 2) continue;
    const auto bytes = tensors[places.front()].options().dtype(at::kByte).requires_grad(false);
    const at::Tensor copy = at::empty({0}, bytes).set_(storage, 0, {size}, {1}).clone();
    for (const std::size_t i : places) copies[i] = view_of(copy.storage(), tensors[i].storage_offset(), tensors[i]);
  }
  return copies;
}

}  // namespace it3::detail
