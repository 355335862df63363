// Batch normalization of tensors. What is computed: formulas/batch_norm.h.
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>
#include <vector>

#include "formulas/activations.h"
#include "formulas/batch_norm.h"
#include "kernels/batch_norm.h"
#include "ops/activations.h"
#include "ops/register.h"
#include "tensors/allocate.h"
#include "tensors/channels.h"
#include "tensors/run.h"

namespace torchnotes {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct NormOptions {
  bool training, center_only;
  double eps;
  int64_t activation;
  double negative_slope;
};

const void* data_of(const Tensor& numbers) { return numbers.defined() ? numbers.const_data_ptr() : nullptr; }

BatchNormChannels channels_of(
    const ChannelRows& in,
    const Tensor& weight,
    const Tensor& bias,
    const Tensor& statistics,
    const NormOptions& options
) {
  return {
      in.shape(),
      in.columns(),
      data_of(weight),
      data_of(bias),
      statistics.mutable_data_ptr<double>(),
      options.activation,
      options.negative_slope,
      options.center_only
  };
}

// Running statistics, which a kernel updates in memory of its own if they have other types or strides.
class Running {
 public:
  Running(const Tensor& x, const OptionalTensor& running, bool updated)
      : running_(updated ? running : std::nullopt), numbers_(precise_numbers(x, running)) {
    if (running_) {
      at::assert_no_internal_overlap(*running_);
    }
  }

  void* data() const { return numbers_.defined() ? numbers_.mutable_data_ptr() : nullptr; }

  void write_back() const {
    if (running_ && !numbers_.is_same(*running_)) {
      running_->copy_(numbers_);
    }
  }

 private:
  OptionalTensor running_;
  Tensor numbers_;
};

// Checks mu and r, or any other pair of numbers per channel.
Tensor checked_pairs(const Tensor& x, const char* name, const Tensor& pairs) {
  TORCH_CHECK(
      pairs.scalar_type() == at::kDouble && pairs.dim() == 2 && pairs.size(0) == 2 && pairs.size(1) == x.size(1),
      "batch_norm: expected ",
      name,
      " of size [2, ",
      x.size(1),
      "] in double precision, got ",
      pairs.sizes(),
      " of ",
      pairs.scalar_type()
  );
  check_same_device(x, pairs);
  return pairs.contiguous();
}

// Writes the normalized `in` to `out`, which may be the same memory, and returns the statistics.
Tensor normalize(
    const ChannelRows& in,
    const Tensor& out,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const OptionalTensor& running_mean,
    const OptionalTensor& running_var,
    std::optional<double> momentum,
    const OptionalTensor& given_statistics,
    const NormOptions& options
) {
  const Tensor& x = in.dense();
  const Tensor gamma = precise_numbers(x, weight), beta = precise_numbers(x, bias);
  const bool runs = options.training ? momentum.has_value() : !given_statistics;
  const OptionalTensor none;
  const Running mean(x, runs ? running_mean : none, options.training),
      variance(x, runs ? running_var : none, options.training);
  const Tensor statistics = given_statistics ? checked_pairs(x, "statistics", *given_statistics).clone()
                                             : at::empty({2, in.count()}, x.options().dtype(at::kDouble));
  run(x.device(),
      BatchNormForward{
          channels_of(in, gamma, beta, statistics, options),
          in.read(x),
          in.write(out),
          options.training,
          options.eps,
          mean.data(),
          variance.data(),
          momentum.value_or(0)
      });
  mean.write_back();
  variance.write_back();
  return statistics;
}

void check_input(
    const Tensor& x,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const OptionalTensor& running_mean,
    const OptionalTensor& running_var,
    std::optional<double> momentum,
    const OptionalTensor& statistics,
    const NormOptions& options
) {
  check_activation(options.activation);
  check_channels(x);
  check_channel_numbers(x, "weight", weight);
  check_channel_numbers(x, "bias", bias);
  check_running(x, "running_mean", running_mean);
  check_running(x, "running_var", running_var);
  TORCH_CHECK(options.training || !momentum, "batch_norm: expected no momentum in evaluation mode");
  if (options.training || statistics) {
    TORCH_CHECK(
        !(options.training && statistics),
        "batch_norm: expected no statistics in training, where those of the batch are used"
    );
    return;
  }
  TORCH_CHECK(running_mean, "running_mean must be defined in evaluation mode");
  TORCH_CHECK(options.center_only || running_var, "running_var must be defined in evaluation mode");
}

std::tuple<Tensor, Tensor> batch_norm(
    const Tensor& input,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const OptionalTensor& running_mean,
    const OptionalTensor& running_var,
    std::optional<double> momentum,
    bool training,
    double eps,
    int64_t activation,
    double negative_slope,
    bool center_only,
    const OptionalTensor& given_statistics
) {
  const NormOptions options{training, center_only, eps, activation, negative_slope};
  check_input(input, weight, bias, running_mean, running_var, momentum, given_statistics, options);
  const ChannelRows in(input);
  const Tensor out = empty_like_dense(in.dense(), in.format());
  return {out, normalize(in, out, weight, bias, running_mean, running_var, momentum, given_statistics, options)};
}

// The channels whose input cannot be recovered accurately enough from the output.
Tensor channels_to_keep(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const NormOptions& options
) {
  constexpr double kLeastSlope = 0x1p-10;  // keeps small numbers in half precision normal
  const bool inverts = options.activation == number_of<Identity>() ||
                       (options.activation == number_of<LeakyReLU>() && options.negative_slope >= kLeastSlope);
  const double most = x.element_size() >= 4 ? 16 : 2;  // the greatest |beta / gamma|
  const int64_t count = x.size(1);
  const Tensor gamma = weight ? weight->to(at::kCPU, at::kDouble).contiguous() : Tensor();
  const Tensor beta = bias ? bias->to(at::kCPU, at::kDouble).contiguous() : Tensor();
  std::vector<int64_t> keep;
  for (int64_t i = 0; i < count; ++i) {
    const double of_gamma = weight ? gamma.const_data_ptr<double>()[i] : 1;
    const double of_beta = bias ? beta.const_data_ptr<double>()[i] : 0;
    if (!inverts || !may_invert(of_gamma, of_beta, most)) {
      keep.push_back(i);
    }
  }
  const Tensor result = at::empty({int64_t(keep.size())}, at::TensorOptions(at::kLong));
  std::copy(keep.begin(), keep.end(), result.mutable_data_ptr<int64_t>());
  return result.to(x.device());
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_(
    Tensor& input,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const OptionalTensor& running_mean,
    const OptionalTensor& running_var,
    std::optional<double> momentum,
    bool training,
    double eps,
    int64_t activation,
    double negative_slope,
    bool center_only,
    bool keep,
    const OptionalTensor& given_statistics
) {
  const NormOptions options{training, center_only, eps, activation, negative_slope};
  check_input(input, weight, bias, running_mean, running_var, momentum, given_statistics, options);
  at::assert_no_internal_overlap(input);
  Tensor channels = at::empty({0}, input.options().dtype(at::kLong)), kept = at::empty({0}, input.options());
  if (keep) {
    channels = channels_to_keep(input, weight, bias, options);
    kept = channels.numel() == input.size(1) ? input.clone() : input.index_select(1, channels);
  }
  const ChannelRows in(input);
  const Tensor statistics =
      normalize(in, in.dense(), weight, bias, running_mean, running_var, momentum, given_statistics, options);
  if (!in.dense().is_same(input)) {
    input.copy_(in.dense());
  }
  return {statistics, channels, kept};
}

// The memory format of the gradient of x: that of x, or the one that the strides of x suggest if those of g suggest
// another.
at::MemoryFormat gradient_format(const Tensor& x, const Tensor& g) {
  const auto suggested = x.suggest_memory_format();
  return g.suggest_memory_format() == suggested && g.is_contiguous(channels_format(g)) ? channels_format(x) : suggested;
}

// The checked operands of the passes of the backward, in matching layouts.
struct BackwardOperands {
  BackwardOperands(
      const Tensor& grad,
      const Tensor& reference,
      const OptionalTensor& weight,
      const OptionalTensor& bias,
      const Tensor& given_statistics,
      int64_t activation
  )
      : in((check_activation(activation), check_channels(reference), reference), gradient_format(reference, grad)) {
    check_same(reference, grad);
    check_channel_numbers(reference, "weight", weight);
    check_channel_numbers(reference, "bias", bias);
    statistics = checked_pairs(reference, "statistics", given_statistics);
    gamma = precise_numbers(reference, weight);
    beta = precise_numbers(reference, bias);
  }

  const Tensor& reference() const { return in.dense(); }

  // The arguments of a kernel, without what it writes.
  BatchNormBackward arguments(
      BatchNormPasses passes, const Tensor& g, bool from_output, double inverse_n, const NormOptions& options
  ) const {
    BatchNormBackward a{channels_of(in, gamma, beta, statistics, options), passes, from_output};
    a.g = in.read(g);
    a.r = in.read(reference());
    a.inverse_n = inverse_n;
    return a;
  }

  ChannelRows in;
  Tensor statistics, gamma, beta;
};

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(
    const Tensor& grad,
    const Tensor& reference,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const Tensor& statistics,
    bool training,
    double eps,
    int64_t activation,
    double negative_slope,
    bool center_only,
    bool from_output
) {
  const NormOptions options{training, center_only, eps, activation, negative_slope};
  const BackwardOperands operands(grad, reference, weight, bias, statistics, activation);
  const ChannelRows& in = operands.in;
  const Tensor& r = operands.reference();
  const auto numbers = r.options().dtype(precise(r));
  const Tensor out = empty_like_dense(r, in.format());
  // Every element is read before it is written. Measured in docs/decisions/memory-layouts.md.
  const Tensor g = in.has_layout(grad) ? grad : out.copy_(grad);
  const std::vector<int64_t> one_each = {in.count()};
  const auto empty_like = [&](const OptionalTensor& parameter) {
    return at::empty(parameter ? parameter->sizes() : at::IntArrayRef(one_each), numbers);
  };
  const Tensor grad_weight = empty_like(weight), grad_bias = empty_like(bias);
  const double inverse_n = training ? 1 / static_cast<double>(in.size()) : 0.0;
  auto arguments = operands.arguments(BatchNormPasses::kBoth, g, from_output, inverse_n, options);
  arguments.out = in.write(out);
  arguments.grad_weight = grad_weight.mutable_data_ptr();
  arguments.grad_bias = grad_bias.mutable_data_ptr();
  run(r.device(), arguments);
  const auto like = [&](const Tensor& x, const OptionalTensor& parameter) {
    return parameter ? x.to(parameter->scalar_type()) : x;
  };
  return {out, like(grad_weight, weight), like(grad_bias, bias)};
}

// The individual passes, for callers that process the per-channel sums in between.

Tensor batch_norm_moments(const Tensor& input) {
  check_channels(input);
  const ChannelRows in(input);
  const Tensor& x = in.dense();
  const Tensor result = at::empty({2, in.count()}, x.options().dtype(at::kDouble));
  run(x.device(), BatchNormMoments{in.shape(), in.columns(), in.read(x), result.mutable_data_ptr<double>()});
  return result;
}

Tensor batch_norm_totals(
    const Tensor& grad,
    const Tensor& reference,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const Tensor& statistics,
    int64_t activation,
    double negative_slope,
    bool from_output
) {
  const BackwardOperands operands(grad, reference, weight, bias, statistics, activation);
  const ChannelRows& in = operands.in;
  const Tensor& r = operands.reference();
  const Tensor g = in.to_layout(grad), result = at::empty({2, in.count()}, r.options().dtype(at::kDouble));
  const NormOptions options{true, false, 0, activation, negative_slope};
  auto arguments = operands.arguments(BatchNormPasses::kTotals, g, from_output, 0, options);
  arguments.totals = result.mutable_data_ptr<double>();
  run(r.device(), arguments);
  return result;
}

Tensor batch_norm_gradient(
    const Tensor& grad,
    const Tensor& reference,
    const OptionalTensor& weight,
    const OptionalTensor& bias,
    const Tensor& statistics,
    const Tensor& given_means,
    int64_t activation,
    double negative_slope,
    bool center_only,
    bool from_output
) {
  const BackwardOperands operands(grad, reference, weight, bias, statistics, activation);
  const ChannelRows& in = operands.in;
  const Tensor& r = operands.reference();
  const Tensor means = checked_pairs(r, "means", given_means), out = empty_like_dense(r, in.format());
  const Tensor g = in.has_layout(grad) ? grad : out.copy_(grad);
  const NormOptions options{true, center_only, 0, activation, negative_slope};
  auto arguments = operands.arguments(BatchNormPasses::kSecond, g, from_output, 1, options);
  arguments.out = in.write(out);
  arguments.totals = means.mutable_data_ptr<double>();
  run(r.device(), arguments);
  return out;
}

}  // namespace
}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  m.impl("batch_norm", torchnotes::batch_norm);
  m.impl("batch_norm_", torchnotes::batch_norm_);
  m.impl("batch_norm_backward", torchnotes::batch_norm_backward);
  m.impl("batch_norm_moments", torchnotes::batch_norm_moments);
  m.impl("batch_norm_totals", torchnotes::batch_norm_totals);
  m.impl("batch_norm_gradient", torchnotes::batch_norm_gradient);
}
