#include "ops/optimizers.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/stack.h>
#include <ATen/ops/empty.h>
#include <c10/util/FunctionRef.h>

#include <array>
#include <optional>
#include <vector>

#include "kernels/adam.h"
#include "kernels/gradient_norm.h"
#include "kernels/rmsprop.h"
#include "kernels/sgd.h"
#include "ops/register.h"
#include "tensors/parameters.h"
#include "tensors/run.h"
#include "tensors/types.h"

namespace torchnotes {
namespace {

using at::TensorList;
using OptionalTensor = std::optional<at::Tensor>;

at::ScalarType real_type(const at::Tensor& x, const char* name) {
  const at::ScalarType type = c10::toRealValueType(x.scalar_type());
  check_element_type(type, name);
  return type;
}

// The options of all rules. The tensors hold numbers on the device, so that nothing synchronizes.
struct Options {
  c10::ArrayRef<c10::IValue> numbers;

  double lr() const { return numbers[0].toDouble(); }
  bool maximize() const { return option_of(numbers, kMaximize).toBool(); }
  std::optional<int64_t> stream() const { return option_of(numbers, kStream).toOptional<int64_t>(); }
  OptionalTensor device_lr() const { return option_of(numbers, kDeviceLr).toOptional<at::Tensor>(); }
  double max_grad_norm() const { return option_of(numbers, kMaxGradNorm).toDouble(); }
  OptionalTensor grad_norm() const { return option_of(numbers, kGradNorm).toOptional<at::Tensor>(); }
  OptionalTensor grad_scale() const { return option_of(numbers, kGradScale).toOptional<at::Tensor>(); }
  OptionalTensor found_inf() const { return option_of(numbers, kFoundInf).toOptional<at::Tensor>(); }
  std::vector<int64_t> shards() const { return option_of(numbers, kShards).toIntVector(); }  // first, length, pitch
};

// Numbers on the device of the parameters, as the kernels read them.
class DeviceNumbers {
 public:
  explicit DeviceNumbers(const at::Tensor& w) : device_(w.device()) {}

  DeviceNumber operator()(const OptionalTensor& x, double fallback) {
    if (!x) {
      return {fallback};
    }
    TORCH_CHECK(
        x->numel() == 1 && x->device() == device_,
        "torchnotes: expected one number on ",
        device_,
        ", got size ",
        x->sizes(),
        " on ",
        x->device()
    );
    const bool is_double = x->scalar_type() == at::kDouble;
    if (is_plain(*x) && (is_double || x->scalar_type() == at::kFloat)) {
      return {0, const_cast<void*>(x->const_data_ptr()), !is_double};
    }
    copies_.push_back(at::empty(x->sizes(), x->options().dtype(at::kDouble)).copy_(*x));
    return {0, copies_.back().mutable_data_ptr()};
  }

 private:
  at::Device device_;
  std::vector<at::Tensor> copies_;
};

// A step on the device is incremented there, one on the CPU at once.
DeviceNumber advanced(const at::Tensor& step, at::Device device) {
  const DeviceNumber number{0, step.mutable_data_ptr(), step.scalar_type() == at::kFloat};
  if (step.device() == device) {
    return number;
  }
  number.increment();
  return {number.get()};
}

void set_shards(std::vector<ParameterSlot>& slots, const std::vector<int64_t>& shards) {
  bool valid = shards.empty() || shards.size() == 3 * slots.size();
  for (size_t i = 0; valid && i < shards.size(); i += 3) {
    slots[i / 3].global_index = {shards[i], shards[i + 1], shards[i + 2]};
    valid = shards[i] >= 0 && shards[i + 1] > 0 && shards[i + 2] >= 0;
  }
  TORCH_CHECK(
      valid,
      "torchnotes: expected a non-negative shard (first, length, pitch) for each of ",
      slots.size(),
      " parameters, got ",
      shards
  );
}

void check_steps(const UpdateCall& call, const at::Tensor& w, TensorList steps, bool skippable) {
  TORCH_CHECK(
      steps.empty() || steps.size() == call.lists[0].size(),
      "torchnotes: expected ",
      call.lists[0].size(),
      " steps, one for each parameter, got ",
      steps.size()
  );
  for (const at::Tensor& step : steps) {
    if (!call.checked) {
      check_step(w, step);
    }
    TORCH_CHECK(
        step.device() == w.device() || !skippable,
        "torchnotes: expected the steps of the parameters on ",
        w.device(),
        ", because found_inf is given, got a step on ",
        step.device()
    );
  }
}

// Calls run_kernel(Update) with the states in the order of the rule. Everything is checked before anything is written.
void update(
    const UpdateCall& call,
    c10::ArrayRef<TensorList> states,
    c10::function_ref<void(at::Device, const Update&)> run_kernel
) {
  const TensorList params = call.lists[0], compensations = *(call.lists.end() - 2), steps = call.lists.back();
  if (params.empty()) {
    return;
  }
  const at::AutoDispatchBelowADInplaceOrView nothing_to_record;
  const Options options{call.numbers};
  const at::Tensor& w = params[0];
  const auto stream = options.stream();
  TORCH_CHECK(
      (compensations.empty() && !stream) || at::isReducedFloatingType(w.scalar_type()),
      "torchnotes: stochastic rounding and compensation require float16 or bfloat16 parameters, got ",
      w.scalar_type()
  );
  const auto grad_norm = options.grad_norm(), grad_scale = options.grad_scale(), found_inf = options.found_inf();
  DeviceNumbers numbers(w);
  Update arguments{};
  arguments.lr = numbers(options.device_lr(), options.lr());
  arguments.grad_norm = numbers(grad_norm, 0);
  arguments.grad_scale = numbers(grad_scale, 1);
  arguments.found_inf = numbers(found_inf, 0);
  arguments.max_grad_norm = options.max_grad_norm();
  arguments.maximize = options.maximize();
  arguments.clips = grad_norm.has_value();
  arguments.unscales = grad_scale.has_value();
  arguments.rounds_stochastically = stream.has_value();
  arguments.stream = uint64_t(stream.value_or(0));

  Parameters parameters(params, call.checked);
  parameters.add(call.lists[1], "gradient", arguments.unscales, [](auto& slot) -> auto& { return slot.grad; });
  for (size_t k = 0; k < states.size(); ++k) {
    parameters.add(states[k], "state", true, [k](auto& slot) -> auto& { return slot.states[k]; });
  }
  if (!compensations.empty()) {
    parameters.add(compensations, "compensation", true, [](auto& slot) -> auto& { return slot.compensation; });
  }
  auto& slots = parameters.slots();
  set_shards(slots, options.shards());
  check_steps(call, w, steps, /*skippable=*/found_inf.has_value());
  arguments.type = real_type(w, "torchnotes::update");
  for (size_t i = 0; i < steps.size(); ++i) {
    slots[i].step = advanced(steps[i], w.device());
  }
  arguments.slots = slots.data();
  arguments.count = int64_t(slots.size());
  run_kernel(w.device(), arguments);
  parameters.write_back();
}

// Calls an update operator with the arguments of the dispatcher.
template <UpdateOperator function>
void call_boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const c10::ArrayRef<c10::IValue> arguments = torch::jit::last(*stack, count);
  std::vector<std::vector<at::Tensor>> tensors;
  while (arguments[tensors.size()].isTensorList()) {
    tensors.push_back(arguments[tensors.size()].toTensorVector());
  }
  const std::vector<TensorList> lists(tensors.begin(), tensors.end());
  function({lists, arguments.slice(lists.size())});
  torch::jit::drop(*stack, count);
}

at::Tensor gradient_norm(TensorList tensors) {
  TORCH_CHECK(!tensors.empty(), "gradient_norm: expected at least one tensor");
  const at::Tensor& first = tensors[0];
  std::vector<at::Tensor> copies;
  std::vector<Array> arrays;
  copies.reserve(tensors.size());
  arrays.reserve(tensors.size());
  for (const at::Tensor& x : tensors) {
    TORCH_CHECK(
        x.scalar_type() == first.scalar_type() && x.device() == first.device(),
        "gradient_norm: expected tensors of one dtype and device, got ",
        first.scalar_type(),
        " on ",
        first.device(),
        " and ",
        x.scalar_type(),
        " on ",
        x.device()
    );
    const bool dense = is_plain(x) && x.is_non_overlapping_and_dense();
    const at::Tensor& y =
        dense ? x : copies.emplace_back(is_plain(x) ? x.contiguous() : at::empty(x.sizes(), x.options()).copy_(x));
    arrays.push_back({y.const_data_ptr(), x.is_complex() ? 2 * x.numel() : x.numel()});
  }
  const at::ScalarType type = real_type(first, "torchnotes::gradient_norm");
  const at::Tensor norm = at::empty({}, first.options().dtype(type == at::kDouble ? at::kDouble : at::kFloat));
  run(first.device(), GradientNorm{arrays.data(), int64_t(arrays.size()), type, norm.mutable_data_ptr()});
  return norm;
}

}  // namespace

void adam(const UpdateCall& call) {
  TORCH_CHECK(call.lists.back().size() == call.lists[0].size(), "adam_: expected a step for each parameter");
  const bool amsgrad = !call.lists[4].empty();
  update(call, call.lists.slice(2, amsgrad ? 3 : 2), [&](at::Device device, const Update& update) {
    const auto& x = call.numbers;
    run(device,
        AdamUpdate{update, x[1].toDouble(), x[2].toDouble(), x[3].toDouble(), x[4].toDouble(), x[5].toBool(), amsgrad});
  });
}

void rmsprop(const UpdateCall& call) {
  const TensorList square_avgs = call.lists[2], grad_avgs = call.lists[3], momentum_buffers = call.lists[4];
  const auto& x = call.numbers;
  const double momentum = x[4].toDouble();
  TORCH_CHECK(
      !(momentum > 0) || momentum_buffers.size() == call.lists[0].size(),
      "rmsprop_: expected a momentum buffer for each parameter"
  );
  c10::SmallVector<TensorList, kMaxStates> states = {square_avgs};
  for (const TensorList& list : {grad_avgs, momentum_buffers}) {
    if (!list.empty()) {
      states.push_back(list);
    }
  }
  update(call, states, [&](at::Device device, const Update& update) {
    const double alpha = x[1].toDouble(), eps = x[2].toDouble(), weight_decay = x[3].toDouble();
    const bool decoupled = x[5].toBool();
    run(device,
        RMSpropUpdate{
            update, alpha, eps, momentum, weight_decay, decoupled, !grad_avgs.empty(), !momentum_buffers.empty()
        });
  });
}

void sgd(const UpdateCall& call) {
  const TensorList momentum_buffers = call.lists[2];
  const auto& x = call.numbers;
  const double momentum = x[1].toDouble();
  TORCH_CHECK(
      momentum == 0 || momentum_buffers.size() == call.lists[0].size(),
      "sgd_: expected a momentum buffer for each parameter"
  );
  const bool has_buffers = !momentum_buffers.empty();
  update(call, call.lists.slice(2, has_buffers ? 1 : 0), [&](at::Device device, const Update& update) {
    run(device,
        SGDUpdate{update, momentum, x[2].toDouble(), x[3].toDouble(), x[4].toBool(), x[5].toBool(), has_buffers});
  });
}

}  // namespace torchnotes

TORCHNOTES_OPERATORS(m) {
  using namespace torchnotes;
  m.impl("adam_", torch::CppFunction::makeFromBoxedFunction<&call_boxed<adam>>());
  m.impl("rmsprop_", torch::CppFunction::makeFromBoxedFunction<&call_boxed<rmsprop>>());
  m.impl("sgd_", torch::CppFunction::makeFromBoxedFunction<&call_boxed<sgd>>());
  m.impl("gradient_norm", gradient_norm);
}
