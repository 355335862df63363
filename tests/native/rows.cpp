// Exposes the traversals of rows, segments and columns as operators.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "loops/columns.h"
#include "loops/precision.h"
#include "loops/rows.h"
#include "loops/segments.h"
#include "operations.h"

namespace torchnotes {
namespace {

using at::Tensor;

// In a matrix (R, C) the rows are its rows, in (N, C, L) the channels, in (1, N, C, S) the N S interleaved rows, and in
// (1, 1, 1, R, C) the C columns.
bool columns(const Tensor& x) { return x.dim() == 5; }
bool segments(const Tensor& x) { return x.dim() == 3; }

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
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::empty({shape_of(x).rows}, x.options().dtype(type));
}

RowOperand read(const Tensor& x) { return shape_of(x).each(x.const_data_ptr(), x.scalar_type()); }
RowOperand written(const Tensor& x) { return shape_of(x).each(x.mutable_data_ptr(), x.scalar_type()); }

// One number per element of x, or per element of a row.
RowOperand read_weight(const Tensor& w, const Tensor& x) {
  return w.dim() == 1 ? shape_of(x).shared(w.const_data_ptr(), w.scalar_type()) : read(w);
}

template <class T, class Op, class... Operands>
void reduce(const Tensor& x, const Op& op, const Operands&... operands) {
  columns(x)    ? reduce_columns<T>(x.device(), shape_of(x), op, operands...)
  : segments(x) ? reduce_segments<T>(x.device(), shape_of(x), op, operands...)
                : reduce_rows<T>(x.device(), shape_of(x), op, operands...);
}

template <class T, class Op, class... Operands>
void map(const Tensor& x, const Op& op, const Operands&... operands) {
  columns(x)    ? map_columns<T>(x.device(), shape_of(x), op, operands...)
  : segments(x) ? map_segments<T>(x.device(), shape_of(x), op, operands...)
                : map_rows<T>(x.device(), shape_of(x), op, operands...);
}

template <class T, class Op, class... Operands>
void transform(const Tensor& x, const Op& op, const Operands&... operands) {
  columns(x)    ? transform_columns<T>(x.device(), shape_of(x), op, operands...)
  : segments(x) ? transform_segments<T>(x.device(), shape_of(x), op, operands...)
                : transform_rows<T>(x.device(), shape_of(x), op, operands...);
}

std::tuple<Tensor, Tensor> max_sum(const Tensor& x, bool prescan) {
  Tensor greatest = per_row(x), sum = per_row(x);
  with_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T *const m = greatest.mutable_data_ptr<T>(), *const s = sum.mutable_data_ptr<T>();
    if (prescan) {
      reduce<T>(x, WriteMaxSum<T, AddMaxSumAfterPrescan>{{}, m, s}, read(x));
    } else {
      reduce<T>(x, WriteMaxSum<T, AddMaxSum>{{}, m, s}, read(x));
    }
  });
  return {greatest, sum};
}

// In place.
void softmax_less_target_(Tensor& x, const Tensor& target, bool prescan) {
  const auto* const t = target.const_data_ptr<int64_t>();
  with_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (prescan) {
      const SoftmaxLessTarget<T, AddMaxSumAfterPrescan> op{{}, read(x), written(x), t};
      transform_rows<T>(x.device(), shape_of(x), op, op.out, op.x);
    } else {
      const SoftmaxLessTarget<T, AddMaxSum> op{{}, read(x), written(x), t};
      transform_rows<T>(x.device(), shape_of(x), op, op.out, op.x);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> center(const Tensor& x, const Tensor& scale) {
  Tensor out = at::empty_like(x), mean = per_row(x), variance = per_row(x);
  with_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Center<T> op{mean.mutable_data_ptr<T>(), variance.mutable_data_ptr<T>(), scale.const_data_ptr<T>()};
    transform<T>(x, op, written(out), read(x));
  });
  return {out, mean, variance};
}

std::tuple<Tensor, Tensor> project(const Tensor& g, const Tensor& x, const Tensor& mean) {
  Tensor sum = per_row(x), along = per_row(x);
  with_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Project<T> op{mean.const_data_ptr<T>(), sum.mutable_data_ptr<T>(), along.mutable_data_ptr<T>()};
    reduce<T>(x, op, read(g), read(x));
  });
  return {sum, along};
}

void scale_out(const Tensor& x, const Tensor& weight, const Tensor& of_row, Tensor& out) {
  with_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    map<T>(x, Scale<T>{of_row.const_data_ptr<T>()}, written(out), read(x), read_weight(weight, x));
  });
}

void remove_out(const Tensor& x, const Tensor& v, const Tensor& weight, const Tensor& mean, Tensor& out) {
  with_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Remove<T> op{mean.const_data_ptr<T>(), 1.0 / shape_of(x).elements()};
    transform<T>(x, op, written(out), read(x), read(v), read_weight(weight, x));
  });
}

}  // namespace
}  // namespace torchnotes

TORCH_LIBRARY(NAMESPACE, m) {
  m.def("max_sum(Tensor x, bool prescan) -> (Tensor, Tensor)");
  m.def("softmax_less_target_(Tensor(a!) x, Tensor target, bool prescan) -> ()");
  m.def("center(Tensor x, Tensor scale) -> (Tensor, Tensor, Tensor)");
  m.def("project(Tensor g, Tensor x, Tensor mean) -> (Tensor, Tensor)");
  m.def("scale_out(Tensor x, Tensor weight, Tensor of_row, Tensor(a!) out) -> ()");
  m.def("remove_out(Tensor x, Tensor v, Tensor weight, Tensor mean, Tensor(a!) out) -> ()");
}

TORCH_LIBRARY_IMPL(NAMESPACE, CPU, m) {
  using namespace torchnotes;
  m.impl("max_sum", max_sum);
  m.impl("softmax_less_target_", softmax_less_target_);
  m.impl("center", center);
  m.impl("project", project);
  m.impl("scale_out", scale_out);
  m.impl("remove_out", remove_out);
}
