// The product of two matrices. ATen computes float32 products with MKL wherever it is available, and on AMD processors
// MKL is half as fast as oneDNN (docs/decisions/matrix-products.md), which ATen uses for 16-bit products only.
#pragma once

#include <ATen/Context.h>
#include <ATen/ceil_div.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cstdint>

#include "tensors/allocate.h"

namespace at::native {
// Declared in ATen/native/mkldnn/Matmul.h, which torch does not install: result <- beta result + alpha a b. Null in
// builds of torch without it.
[[gnu::weak]] void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result, float beta, float alpha);
}  // namespace at::native

namespace torchnotes {

constexpr int64_t kDepth = 192;  // the most terms that MKL sums at a time; oneDNN sums all of them, with a larger error
// The least number of multiplications for which oneDNN pays: a call takes microseconds, copying a slice of b takes
// more.
constexpr int64_t kWorthCalling = 4 << 20, kWorthCopying = 10 << 20;

// Whether this is an AMD processor with the instructions that ATen's function requires.
inline bool mkl_is_slow() {
#ifdef __x86_64__
  return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

// Neither an outer product nor a product of a matrix and a vector.
inline bool is_matrix_product(const at::Tensor& a, const at::Tensor& b) {
  return a.size(0) > 1 && a.size(1) > 1 && b.size(1) > 1;
}

inline bool dense(const at::Tensor& x) { return x.is_contiguous() || x.t().is_contiguous(); }

inline bool use_onednn(const at::Tensor& a, const at::Tensor& b) {
  const bool copies = a.size(1) > kDepth && b.stride(1) != 1;
  return a.scalar_type() == at::kFloat && is_matrix_product(a, b) &&
         a.size(0) * std::min(a.size(1), kDepth) * b.size(1) >= (copies ? kWorthCopying : kWorthCalling) &&
         mkl_is_slow() && at::native::mkldnn_matmul && at::hasMKLDNN() && at::globalContext().userEnabledMkldnn() &&
         dense(a) && dense(b);
}

// A slice of the terms. Copies strided columns, with which oneDNN is slow.
inline at::Tensor terms(const at::Tensor& x, int64_t dim, int64_t start, int64_t length) {
  const at::Tensor some = x.narrow(dim, start, length);
  return some.stride(1) == 1 ? some : some.t().contiguous().t();
}

inline at::Tensor multiply(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_cpu()) {
    return at::mm(a, b);
  }
  at::Tensor result = empty_matrix(a.size(0), b.size(1), a);
  if (!use_onednn(a, b)) {
    return at::mm_out(result, a, b);
  }
  const int64_t depth = a.size(1), length = at::ceil_div(depth, at::ceil_div(depth, kDepth));
  for (int64_t k = 0; k < depth; k += length) {
    const int64_t n = std::min(length, depth - k);
    at::native::mkldnn_matmul(terms(a, 1, k, n), terms(b, 0, k, n), result, /*beta=*/k > 0, /*alpha=*/1);
  }
  return result;
}

}  // namespace torchnotes
