// Fills tensors with random numbers, or multiplies them. The numbers follow the logical index of the elements, whatever
// the memory layout.
#include "kernels/random.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <limits>

#include "ops/register.h"
#include "tensors/allocate.h"
#include "tensors/keys.h"
#include "tensors/run.h"
#include "tensors/types.h"

namespace torchnotes {
namespace {

using at::Tensor;

// Runs the kernel of Arguments, which are a Noise and these numbers.
template <class Arguments, class... Numbers>
void run_noise(const Parts& parts, const Tensor& out, const void* in, Numbers... numbers) {
  check_element_type(out.scalar_type(), "torchnotes::draws");
  const at::Device device = out.device();
  const PartKeys keys(parts.keys, device);
  const Noise noise{out.scalar_type(), out.mutable_data_ptr(), in, parts.count, parts.size, parts.numbering, keys.keys};
  run(device, Arguments{noise, numbers...});
}

template <class Arguments, class... Numbers>
void write(const Tensor& self, const Tensor& keys, ShardPosition shard, bool multiplies, Numbers... numbers) {
  const Parts parts(self, keys, shard);
  const Tensor in_order = self.contiguous();
  run_noise<Arguments>(parts, in_order, multiplies ? in_order.const_data_ptr() : nullptr, numbers...);
  if (!self.is_contiguous()) {
    self.copy_(in_order);
  }
}

// x_i <- draw_i
template <class Arguments, class... Numbers>
void fill_(const Tensor& self, const Tensor& keys, ShardPosition shard, Numbers... numbers) {
  write<Arguments>(self, keys, shard, /*multiplies=*/false, numbers...);
}

// x_i <- draw_i x_i
template <class Arguments, class... Numbers>
void multiply_(const Tensor& self, const Tensor& keys, ShardPosition shard, Numbers... numbers) {
  write<Arguments>(self, keys, shard, /*multiplies=*/true, numbers...);
}

// draw_i x_i, with the layout of torch's empty_like.
template <class Arguments, class... Numbers>
Tensor multiply(const Tensor& input, const Tensor& keys, ShardPosition shard, Numbers... numbers) {
  const Parts parts(input, keys, shard);
  const Tensor in_order = input.contiguous();
  const Tensor result = input.is_contiguous() ? empty_like_dense(input) : at::empty_like(input);
  const Tensor out = result.is_contiguous() ? result : empty_like_dense(in_order);
  run_noise<Arguments>(parts, out, in_order.const_data_ptr(), numbers...);
  return out.is_same(result) ? result : result.copy_(out);
}

// The checks and messages of torch's uniform_.
void check_bounds(const Tensor& self, double a, double b) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, self.scalar_type(), "torchnotes::uniform_", [&] {
    const double max = std::numeric_limits<scalar_t>::max();
    TORCH_CHECK(-max <= a && a <= max, "from is out of bounds for ", self.dtype());
    TORCH_CHECK(-max <= b && b <= max, "to is out of bounds for ", self.dtype());
    TORCH_CHECK(a <= b, "uniform_ expects to return a [from, to) range, but found from=", a, " > to=", b);
    TORCH_CHECK(
        b - a <= max,
        "uniform_ expects to-from <= std::numeric_limits<",
        self.scalar_type(),
        ">::max(), but found to=",
        b,
        " and from=",
        a,
        " which result in to-from to exceed the limit"
    );
  });
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  using namespace torchnotes;
  m.impl("dropout", [](const Tensor& input, const Tensor& key, double p, ShardPosition shard) {
    return multiply<DropoutNoise>(input, key, shard, p);
  });
  m.impl("dropout_", [](Tensor& input, const Tensor& key, double p, ShardPosition shard) {
    multiply_<DropoutNoise>(input, key, shard, p);
  });
  m.impl(
      "gaussian_dropout", [](const Tensor& input, const Tensor& key, double mean, double sigma, ShardPosition shard) {
        return multiply<NormalNoise>(input, key, shard, mean, sigma);
      }
  );
  m.impl("gaussian_dropout_", [](Tensor& input, const Tensor& key, double mean, double sigma, ShardPosition shard) {
    multiply_<NormalNoise>(input, key, shard, mean, sigma);
  });
  m.impl("uniform_", [](Tensor& self, const Tensor& key, double a, double b, ShardPosition shard) {
    check_bounds(self, a, b);
    fill_<UniformNoise>(self, key, shard, a, b);
  });
  m.impl("normal_", [](Tensor& self, const Tensor& key, double mean, double std, ShardPosition shard) {
    TORCH_CHECK(std >= 0, "normal expects std >= 0.0, but found std ", std);
    fill_<NormalNoise>(self, key, shard, mean, std);
  });
  m.impl(
      "trunc_normal_",
      [](Tensor& self, const Tensor& key, double mean, double std, double a, double b, ShardPosition shard) {
        TORCH_CHECK(std > 0, "trunc_normal_ expects std > 0, but found std ", std);
        TORCH_CHECK(a <= b, "trunc_normal_ expects a <= b, but found a=", a, " > b=", b);
        fill_<TruncatedNormalNoise>(self, key, shard, mean, std, a, b);
      }
  );
}
