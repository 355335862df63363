// Memory for results. A fresh result of many megabytes costs more in page faults than in arithmetic: 256 faults of
// 4 KiB for every one of 2 MiB. So a large block asks the kernel for huge pages before it is first touched.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "../check.h"

namespace torchnotes {

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

// Uninitialised memory with the size, dtype and layout of a dense tensor.
inline at::Tensor empty_like_dense(const at::Tensor& x) {
  const auto format = dense_format(x);
  at::Tensor fresh = format == at::MemoryFormat::Preserve
                         ? at::detail::empty_strided_cpu(x.sizes(), x.strides(), x.scalar_type())
                         : at::detail::empty_cpu(x.sizes(), x.scalar_type(), /*pin_memory=*/false, format);
  advise_huge_pages(fresh);
  return fresh;
}

}  // namespace torchnotes
