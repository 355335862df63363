// For large results, obtaining memory costs more than the arithmetic, for two reasons.
//
// Fresh memory faults on first touch: 256 times in 4 KiB pages for every page fault of a 2 MiB page. So we ask the
// kernel for huge pages before touching a large block.
//
// Recycled memory is in the cache only if it was used a moment ago. torch's allocator asks glibc for aligned blocks,
// and glibc cannot reuse a freed block for the next aligned request of the same size, because there is no room left to
// align it: results move through the heap and are always cold. We ask glibc for plain blocks, which it hands out again
// at once. Measured in docs/decisions/memory.md.
#include "tensors/allocate.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>

#include <cstddef>
#include <cstdlib>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace torchnotes {
namespace {

// Aligns a block inside memory from malloc and stores malloc's pointer just before it. There is always room, because
// malloc aligns for every type.
class PlainAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* const memory = static_cast<char*>(std::malloc(bytes + c10::gAlignment));
    TORCH_CHECK(memory, "torchnotes: not enough memory: you tried to allocate ", bytes, " bytes");
    char* const block = memory + c10::gAlignment - reinterpret_cast<uintptr_t>(memory) % c10::gAlignment;
    malloc_pointer(block) = memory;
    c10::profiledCPUMemoryReporter().New(block, bytes);
    return {block, block, &free, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &free; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static_assert(alignof(std::max_align_t) >= sizeof(void*));
  static void*& malloc_pointer(void* block) { return static_cast<void**>(block)[-1]; }

  static void free(void* block) {
    c10::profiledCPUMemoryReporter().Delete(block);
    std::free(malloc_pointer(block));
  }
};

// An allocator that the program has set takes precedence.
c10::Allocator* allocator() {
  static PlainAllocator plain_allocator;
  c10::Allocator* const current = c10::GetCPUAllocator();
  return current == c10::GetDefaultCPUAllocator() ? &plain_allocator : current;
}

constexpr c10::DispatchKeySet kCPU(c10::DispatchKey::CPU);

}  // namespace

void advise_huge_pages(const at::Tensor& fresh) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
  constexpr uintptr_t kMinBytes = 4 * kHugePage;
  const uintptr_t bytes = fresh.storage().nbytes();
  if (bytes < kMinBytes) {
    return;
  }
  const auto start = reinterpret_cast<uintptr_t>(fresh.storage().mutable_data());
  const uintptr_t first = (start + kHugePage - 1) / kHugePage * kHugePage;  // the aligned interior
  const uintptr_t last = (start + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only a hint: failure is harmless
#endif
}

at::Tensor empty_like_dense(const at::Tensor& x, at::MemoryFormat format) {
  if (!x.is_cpu()) {
    return at::empty_like(x, format);
  }
  const at::Tensor fresh =
      format == at::MemoryFormat::Preserve
          ? at::detail::empty_strided_generic(x.sizes(), x.strides(), allocator(), kCPU, x.scalar_type())
          : at::detail::empty_generic(x.sizes(), allocator(), kCPU, x.scalar_type(), format);
  advise_huge_pages(fresh);
  return fresh;
}

at::Tensor empty_matrix(int64_t rows, int64_t columns, const at::Tensor& x) {
  if (!x.is_cpu()) {
    return at::empty({rows, columns}, x.options());
  }
  const at::Tensor fresh =
      at::detail::empty_generic({rows, columns}, allocator(), kCPU, x.scalar_type(), at::MemoryFormat::Contiguous);
  advise_huge_pages(fresh);
  return fresh;
}

}  // namespace torchnotes
