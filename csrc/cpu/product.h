// The product of two matrices: one of ATen's two. Its float32 products are MKL's wherever there is MKL, which on AMD's
// processors is half as fast as oneDNN (CONTRIBUTING.md), by which ATen computes those of 16-bit numbers.
#pragma once

#include <ATen/Context.h>
#include <ATen/ceil_div.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cstdint>

#include "allocate.h"

namespace at::native {
// As ATen/native/mkldnn/Matmul.h has it, which torch does not install: result <- beta result + alpha a b. Null where
// there is none.
[[gnu::weak]] void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result, float beta, float alpha);
}  // namespace at::native

namespace torchnotes {

constexpr int64_t kDepth = 192;  // terms, at most, that MKL adds up at a time; oneDNN adds up all, and errs more
// Multiplications, at least, that oneDNN is called for: a call takes some microseconds, a part of b copied to it more.
constexpr int64_t kWorthCalling = 4 << 20, kWorthCopying = 10 << 20;

// An AMD processor with the instructions that ATen's function insists on.
inline bool slow_with_mkl() {
#ifdef __x86_64__
  return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

// Neither a vector times another nor a matrix times a vector.
inline bool proper(const at::Tensor& a, const at::Tensor& b) { return a.size(0) > 1 && a.size(1) > 1 && b.size(1) > 1; }

inline bool dense(const at::Tensor& x) { return x.is_contiguous() || x.t().is_contiguous(); }

inline bool by_onednn(const at::Tensor& a, const at::Tensor& b) {
  const bool copies = a.size(1) > kDepth && b.stride(1) != 1;
  return a.scalar_type() == at::kFloat && proper(a, b) &&
         a.size(0) * std::min(a.size(1), kDepth) * b.size(1) >= (copies ? kWorthCopying : kWorthCalling) &&
         slow_with_mkl() && at::native::mkldnn_matmul && at::hasMKLDNN() && at::globalContext().userEnabledMkldnn() &&
         dense(a) && dense(b);
}

// Some of the terms. oneDNN is slow with columns that lie apart.
inline at::Tensor part(const at::Tensor& x, int64_t dim, int64_t start, int64_t length) {
  const at::Tensor some = x.narrow(dim, start, length);
  return some.stride(1) == 1 ? some : some.t().contiguous().t();
}

inline at::Tensor multiply(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor result = empty_matrix(a.size(0), b.size(1), a);
  if (!by_onednn(a, b)) {
    return at::mm_out(result, a, b);
  }
  const int64_t depth = a.size(1), length = at::ceil_div(depth, at::ceil_div(depth, kDepth));
  for (int64_t k = 0; k < depth; k += length) {
    const int64_t n = std::min(length, depth - k);
    at::native::mkldnn_matmul(part(a, 1, k, n), part(b, 0, k, n), result, /*beta=*/k > 0, /*alpha=*/1);
  }
  return result;
}

}  // namespace torchnotes
