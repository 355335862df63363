// Memory for results. Large ones cost more in waiting for memory than in arithmetic, twice over:
//
// Fresh memory faults on first touch, 256 times in pages of 4 KiB for every once in one of 2 MiB: a large block asks
// the kernel for huge pages before it is touched.
//
// Recycled memory is in the cache only if it was used a moment ago. torch's allocator asks glibc for aligned blocks,
// and glibc does not find a block just freed fit for the next one like it, for want of room to align: results wander
// through the heap and are always cold. Here glibc is asked for plain blocks, which it hands out again at once.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>

#include <cstddef>
#include <cstdlib>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "../operands.h"

namespace torchnotes {

// A block starts at the next multiple of the alignment in a piece of memory from malloc, whose address stands before
// it: malloc aligns for every type, so there is room.
class Blocks final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* const memory = static_cast<char*>(std::malloc(bytes + c10::gAlignment));
    TORCH_CHECK(memory, "torchnotes: not enough memory: you tried to allocate ", bytes, " bytes");
    char* const block = memory + c10::gAlignment - reinterpret_cast<uintptr_t>(memory) % c10::gAlignment;
    address_of_memory(block) = memory;
    c10::profiledCPUMemoryReporter().New(block, bytes);
    return {block, block, &free, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static_assert(alignof(std::max_align_t) >= sizeof(void*));
  static void*& address_of_memory(void* block) { return static_cast<void**>(block)[-1]; }

  static void free(void* block) {
    c10::profiledCPUMemoryReporter().Delete(block);
    std::free(address_of_memory(block));
  }
};

// An allocator that the program has set itself goes first.
inline c10::Allocator* allocator() {
  static Blocks blocks;
  c10::Allocator* const current = c10::GetCPUAllocator();
  return current == c10::GetDefaultCPUAllocator() ? &blocks : current;
}

inline void advise_huge_pages(const at::Tensor& fresh) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  constexpr uintptr_t kWorthwhile = 4 * kHuge;
  const uintptr_t bytes = fresh.storage().nbytes();
  if (bytes < kWorthwhile) {
    return;
  }
  const auto start = reinterpret_cast<uintptr_t>(fresh.storage().mutable_data());
  const uintptr_t first = (start + kHuge - 1) / kHuge * kHuge;  // the aligned interior: nothing of a neighbour's
  const uintptr_t last = (start + bytes) / kHuge * kHuge;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#endif
}

constexpr c10::DispatchKeySet kCPU(c10::DispatchKey::CPU);

// Uninitialised memory with the size, dtype and layout of a dense tensor, or in a memory format.
inline at::Tensor empty_like_dense(const at::Tensor& x, at::MemoryFormat format) {
  at::Tensor fresh = format == at::MemoryFormat::Preserve
                         ? at::detail::empty_strided_generic(x.sizes(), x.strides(), allocator(), kCPU, x.scalar_type())
                         : at::detail::empty_generic(x.sizes(), allocator(), kCPU, x.scalar_type(), format);
  advise_huge_pages(fresh);
  return fresh;
}

inline at::Tensor empty_like_dense(const at::Tensor& x) { return empty_like_dense(x, dense_format(x)); }

// Uninitialised memory for a matrix of the dtype of x.
inline at::Tensor empty_matrix(int64_t rows, int64_t columns, const at::Tensor& x) {
  const at::Tensor fresh =
      at::detail::empty_generic({rows, columns}, allocator(), kCPU, x.scalar_type(), at::MemoryFormat::Contiguous);
  advise_huge_pages(fresh);
  return fresh;
}

}  // namespace torchnotes
