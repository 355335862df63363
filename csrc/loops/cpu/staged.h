// Operations that apply a stage (stage.h) between loading and adding or storing: first_input <- stage(...), where
// stage_input(constants or formula, x...) is what the stage is applied to.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <utility>

#include "loops/cpu/vectors.h"

namespace torchnotes::detail {

template <class Op>
concept Stages = Op::kStaged;

constexpr int64_t kStageVectors = 32;  // vectors that a stage is applied to at a time

// Inputs of a staged operation as Ts, the first of which is replaced.
template <class T, class Op, size_t inputs>
class StagedInputs {
  using V = Vectorized<T>;

 public:
  // load(k, j) loads vector j of input k; constants(j) are those of vector j.
  template <class Load, class Constants>
  StagedInputs(const Op& op, int64_t n, const Load& load, const Constants& constants) {
    alignas(64) T z[kStageVectors * V::size()];
    for (int64_t j = 0; j < n; ++j) {
      std::array<V, inputs> x;
      for (size_t k = 0; k < inputs; ++k) {
        x[k] = load(k, j);
        x[k].store(data_[k] + j * V::size());
      }
      std::apply([&](const auto&... of) { return op.stage_input(constants(j), of...); }, x).store(z + j * V::size());
    }
    op.apply_stage(n * V::size(), data_[0], z, data_[0]);
  }

  // Calls f(x...) for vector j.
  template <class F>
  auto apply(int64_t j, const F& f) const {
    return [&]<size_t... k>(std::index_sequence<k...>) {
      return f(V::loadu(data_[k] + j * V::size())...);
    }(std::make_index_sequence<inputs>());
  }

 private:
  alignas(64) T data_[inputs][kStageVectors * V::size()];
};

}  // namespace torchnotes::detail
