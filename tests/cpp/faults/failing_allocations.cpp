#include "faults/failing_allocations.h"

#include <cstdlib>
#include <new>

#include <c10/core/CPUAllocator.h>

namespace it3::test {
namespace {

thread_local FailingAllocations* tensor_memory = nullptr;
thread_local FailingAllocations* operator_new = nullptr;

/// torch's own allocator, with failures.
class Allocator : public at::Allocator {
 public:
  at::DataPtr allocate(std::size_t size) override {
    TORCH_CHECK(
        tensor_memory == nullptr || !tensor_memory->fails_now(),
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate ", size,
        " bytes. Error code 12 (Cannot allocate memory)");
    return own_->allocate(size);
  }
  at::DeleterFnPtr raw_deleter() const override { return own_->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t size) const override { own_->copy_data(to, from, size); }

 private:
  at::Allocator* own_ = c10::GetDefaultCPUAllocator();
};

/// Null where it is to fail.
void* memory_of(std::size_t size, std::size_t alignment) noexcept {
  if (operator_new != nullptr && operator_new->fails_now()) return nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(size == 0 ? 1 : size);
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* memory_or_raise(std::size_t size, std::size_t alignment = 1) {
  void* const memory = memory_of(size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

FailingTensorMemory::FailingTensorMemory(std::int64_t n, bool lasts) : FailingAllocations(n, lasts) {
  static Allocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
  tensor_memory = this;
}

FailingTensorMemory::~FailingTensorMemory() {
  tensor_memory = nullptr;
  c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), /*priority=*/1);
}

FailingNew::FailingNew(std::int64_t n, bool lasts) : FailingAllocations(n, lasts) { operator_new = this; }

FailingNew::~FailingNew() { operator_new = nullptr; }

}  // namespace it3::test

using it3::test::memory_of;
using it3::test::memory_or_raise;

void* operator new(std::size_t size) { return memory_or_raise(size); }
void* operator new[](std::size_t size) { return memory_or_raise(size); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return memory_or_raise(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return memory_or_raise(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return memory_of(size, 1); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return memory_of(size, 1); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
