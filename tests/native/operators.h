// Exposes the row drivers as operators. rows.cpp and rows.cu include a driver before this header.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "operations.h"

namespace torchnotes {
namespace {

using at::Tensor;

// In a matrix (R, C) the rows are its rows, in (N, C, L) the channels, in (1, N, C, S) the N S interleaved rows, and in
// (1, 1, 1, R, C) the C columns.
bool columns(const Tensor& x) { return x.dim() == 5; }

RowShape shape_of(const Tensor& x) {
  if (columns(x)) {
    return {x.size(4), 1, x.size(3), x.size(4)};
  }
  if (x.dim() == 4) {
    return {x.size(1) * x.size(3), 1, x.size(2), x.size(3)};
  }
  return x.dim() == 2 ? RowShape{x.size(0), 1, x.size(1)} : RowShape{x.size(1), x.size(0), x.size(2)};
}

Tensor per_row(const Tensor& x) {
  return at::empty({shape_of(x).rows}, x.options().dtype(at::toOpMathType(x.scalar_type())));
}

template <class F>
void dispatch(const Tensor& x, const F& f) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "rows", [&] { f(scalar_t()); });
}

template <class scalar_t>
auto rows_of(const Tensor& x, scalar_t) {
  return shape_of(x).each(x.const_data_ptr<scalar_t>());
}

template <class Op, class... Operands>
void reduce(const Tensor& x, const Op& op, const Operands&... operands) {
  columns(x) ? reduce_columns(x.device(), shape_of(x), op, operands...)
             : reduce_rows(x.device(), shape_of(x), op, operands...);
}

template <class Op, class... Operands>
void transform(const Tensor& x, const Op& op, const Operands&... operands) {
  columns(x) ? transform_columns(x.device(), shape_of(x), op, operands...)
             : transform_rows(x.device(), shape_of(x), op, operands...);
}

std::tuple<Tensor, Tensor> max_sum(const Tensor& x) {
  Tensor greatest = per_row(x), sum = per_row(x);
  dispatch(x, [&](auto zero) {
    using acc_t = at::opmath_type<decltype(zero)>;
    const WriteMaxSum<acc_t> op{greatest.mutable_data_ptr<acc_t>(), sum.mutable_data_ptr<acc_t>()};
    reduce(x, op, rows_of(x, zero));
  });
  return {greatest, sum};
}

// In place.
void softmax_less_target_(Tensor& x, const Tensor& target) {
  dispatch(x, [&](auto zero) {
    using scalar_t = decltype(zero);
    scalar_t* data = x.mutable_data_ptr<scalar_t>();
    const SoftmaxLessTarget<at::opmath_type<scalar_t>, scalar_t> op{
        rows_of(x, zero), shape_of(x).each(data), target.const_data_ptr<int64_t>()
    };
    transform(x, op, shape_of(x).each(data), rows_of(x, zero));
  });
}

std::tuple<Tensor, Tensor, Tensor> center(const Tensor& x, const Tensor& scale) {
  Tensor out = at::empty_like(x), mean = per_row(x), variance = per_row(x);
  dispatch(x, [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = at::opmath_type<scalar_t>;
    const Center<acc_t> op{
        mean.mutable_data_ptr<acc_t>(), variance.mutable_data_ptr<acc_t>(), scale.const_data_ptr<acc_t>()
    };
    transform(x, op, shape_of(x).each(out.mutable_data_ptr<scalar_t>()), rows_of(x, zero));
  });
  return {out, mean, variance};
}

std::tuple<Tensor, Tensor> project(const Tensor& g, const Tensor& x, const Tensor& mean) {
  Tensor sum = per_row(x), along = per_row(x);
  dispatch(x, [&](auto zero) {
    using acc_t = at::opmath_type<decltype(zero)>;
    const Project<acc_t> op{
        mean.const_data_ptr<acc_t>(), sum.mutable_data_ptr<acc_t>(), along.mutable_data_ptr<acc_t>()
    };
    reduce(x, op, rows_of(g, zero), rows_of(x, zero));
  });
  return {sum, along};
}

Tensor scale(const Tensor& x, const Tensor& weight, const Tensor& of_row) {
  Tensor out = at::empty_like(x);
  dispatch(x, [&](auto zero) {
    using scalar_t = decltype(zero);
    const Scale<at::opmath_type<scalar_t>> op{of_row.const_data_ptr<at::opmath_type<scalar_t>>()};
    const RowShape shape = shape_of(x);
    const auto shared = shape.shared(weight.const_data_ptr<scalar_t>());
    map_rows(x.device(), shape, op, shape.each(out.mutable_data_ptr<scalar_t>()), rows_of(x, zero), shared);
  });
  return out;
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY(NAMESPACE, m) {
  m.def("max_sum(Tensor x) -> (Tensor, Tensor)");
  m.def("softmax_less_target_(Tensor(a!) x, Tensor target) -> ()");
  m.def("center(Tensor x, Tensor scale) -> (Tensor, Tensor, Tensor)");
  m.def("project(Tensor g, Tensor x, Tensor mean) -> (Tensor, Tensor)");
  m.def("scale(Tensor x, Tensor weight, Tensor of_row) -> Tensor");
}

TORCH_LIBRARY_IMPL(NAMESPACE, TORCHNOTES_DEVICE, m) {
  using namespace torchnotes;
  m.impl("max_sum", max_sum);
  m.impl("softmax_less_target_", softmax_less_target_);
  m.impl("center", center);
  m.impl("project", project);
  m.impl("scale", torchnotes::scale);
}
