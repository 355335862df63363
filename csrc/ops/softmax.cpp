#include "kernels/softmax.h"

#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>

#include "ops/register.h"
#include "tensors/allocate.h"
#include "tensors/class_rows.h"
#include "tensors/operands.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;

Tensor softmax(const Tensor& input, int64_t dim, bool logarithm) {
  const auto rows = class_rows(input.contiguous(), at::maybe_wrap_dim(dim, input.dim()));
  const Tensor out = empty_like_dense(rows.dense);
  run(input.device(), Softmax{rows.shape, rows.written(out), rows.read(rows.dense), logarithm});
  return out;
}

Tensor softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, bool logarithm) {
  check_same(grad, output);
  const auto rows = class_rows(grad.contiguous(), at::maybe_wrap_dim(dim, grad.dim()));
  const Tensor out = empty_like_dense(rows.dense), y = output.contiguous();
  run(grad.device(), SoftmaxGradient{rows.shape, rows.written(out), rows.read(rows.dense), rows.read(y), logarithm});
  return out;
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  using namespace torchnotes;
  m.impl("softmax", [](const Tensor& input, int64_t dim) { return softmax(input, dim, /*logarithm=*/false); });
  m.impl("softmax_backward", [](const Tensor& grad, const Tensor& output, int64_t dim) {
    return softmax_backward(grad, output, dim, /*logarithm=*/false);
  });
  m.impl("log_softmax", [](const Tensor& input, int64_t dim) { return softmax(input, dim, /*logarithm=*/true); });
  m.impl("log_softmax_backward", [](const Tensor& grad, const Tensor& output, int64_t dim) {
    return softmax_backward(grad, output, dim, /*logarithm=*/true);
  });
}
