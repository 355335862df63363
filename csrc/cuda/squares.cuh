// The driver of gradient_norm, with the interface of cpu/squares.h: a block sums a chunk, and one block adds up the
// sums.
#pragma once

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../formulas/gradient_norm.h"
#include "chunks.cuh"
#include "rows.cuh"

namespace torchnotes {
namespace {

struct Sum {
  double value;
  __device__ void merge(const Sum& other) { value += other.value; }
};

template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) squares_kernel(Batch<const scalar_t*> batch, double* sums) {
  for_each_chunk(batch, [&](int i, int64_t begin, int64_t end, int64_t chunk) {
    const SumOfSquares add;
    Sum sum{0};
    for (int64_t j = begin + threadIdx.x; j < end; j += blockDim.x) {
      sum.value = add(sum.value, static_cast<at::opmath_type<scalar_t>>(batch.item[i][j]));
    }
    sum = merge_block<double>(sum, Sum{0});
    if (threadIdx.x == 0) {
      sums[chunk] = sum.value;
    }
  });
}

template <class acc_t>
__global__ void __launch_bounds__(kRowThreads) root_kernel(const double* sums, int64_t count, acc_t* root) {
  Sum sum{0};
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    sum.value += sums[i];
  }
  sum = merge_block<double>(sum, Sum{0});
  if (threadIdx.x == 0) {
    *root = static_cast<acc_t>(::sqrt(sum.value));
  }
}

inline at::Tensor norm_of_all(const std::vector<at::Tensor>& tensors) {
  int64_t chunks = 0;
  for (const at::Tensor& x : tensors) {
    chunks += at::ceil_div(x.numel(), kTensorChunk);
  }
  const auto dtype = tensors[0].scalar_type();
  const at::Tensor root = at::empty({}, tensors[0].options().dtype(at::toOpMathType(dtype)));
  const at::Tensor memory = at::empty({chunks}, tensors[0].options().dtype(at::kDouble));
  double* const sums = memory.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "torchnotes::gradient_norm", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    int64_t done = 0;
    for (size_t i = 0; i < tensors.size();) {
      Batch<const scalar_t*> batch;
      for (; i < tensors.size() && !batch.full(); ++i) {
        batch.add(tensors[i].const_data_ptr<scalar_t>(), tensors[i].numel());
      }
      launch(root.device(), batch.chunks(), kRowThreads, squares_kernel<scalar_t>, batch, sums + done);
      done += batch.chunks();
    }
    launch(root.device(), 1, kRowThreads, root_kernel<acc_t>, sums, chunks, root.mutable_data_ptr<acc_t>());
  });
  return root;
}

}  // namespace
}  // namespace torchnotes
