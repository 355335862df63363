// The call of an activation y = f(x) and its node in the graph, without Python on the way. The rules are those of
// torchnotes/ops/_activation.py; a Python Function costs several times the kernel on a small tensor.
//
//   no graph wanted   y = kernel(x, numbers...)
//   a graph           the same, and a node that keeps r, which is y, or x where the output does not decide the slope
//   its backward      slope(g, r, numbers...); where that needs a graph in turn, the Python Function of the slope
//   a transform       Python's rules for everything
#include "activation.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/python_numbers.h>

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "call_mode.h"

namespace torchnotes {
namespace {

using at::Tensor;
using torch::autograd::variable_list;
using Numbers = std::vector<double>;

// One per activation, made at import and never freed: nodes may outlive the interpreter.
struct Rule {
  std::string name;
  c10::OperatorHandle kernel;
  c10::OperatorHandle slope;
  bool keeps_input;
  pybind11::object under_transform;       // f for tensors under a transform
  pybind11::object differentiable_slope;  // slope with a graph

  bool in_place() const { return kernel.schema().is_mutable(); }
};

torch::jit::Stack call(const c10::OperatorHandle& kernel, torch::jit::Stack stack, const Numbers& numbers) {
  stack.insert(stack.end(), numbers.begin(), numbers.end());
  const at::AutoDispatchBelowAutograd below;
  kernel.callBoxed(stack);
  return stack;
}

struct Node final : torch::autograd::Node {
  Node(const Rule& rule, const Numbers& numbers, torch::autograd::edge_list&& next)
      : torch::autograd::Node(std::move(next)), rule(rule), numbers(numbers) {}

  std::string name() const override { return rule.name + "Backward"; }

  variable_list apply(variable_list&& gradients) override {
    const Tensor& g = gradients[0];
    if (!g.defined()) {
      return {Tensor()};
    }
    const Tensor r = unpack();
    if (at::GradMode::is_enabled() || transforming()) {
      return {differentiable_slope(g, r)};
    }
    return {call(rule.slope, {g, r}, numbers)[0].toTensor()};
  }

  Tensor unpack() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept.unpack(getptr());
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept.reset_data();
  }

  Tensor differentiable_slope(const Tensor& g, const Tensor& r) const {
    const pybind11::gil_scoped_acquire gil;
    return rule.differentiable_slope(g, r, *pybind11::cast(numbers)).cast<Tensor>();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(rule.name);
    args.collect(numbers);
    args.collect(kept, /*is_output=*/!rule.keeps_input);
  }

  // Compiled autograd traces with stand-ins for tensors, and wants a function of them that it can put into its graph.
  variable_list apply_with_saved(
      const variable_list& gradients, torch::dynamo::autograd::SwapSavedVariables& saved
  ) override {
    using namespace torch::dynamo::autograd;
    const auto slope = [&rule = rule, numbers = numbers](const variable_list& g, const std::vector<at::IValue>& r) {
      return variable_list{g[0].defined() ? call(rule.slope, {g[0], r[0]}, numbers)[0].toTensor() : Tensor()};
    };
    saved.before(kept);
    const auto& compiler = getPyCompilerInterface();
    const auto self = saved.get_py_compiler();
    const auto function = compiler->bind_function(
        self, name(), slope, {at::TensorType::get()}, /*is_custom_function=*/true, /*is_traceable=*/true
    );
    using Outputs = std::vector<std::optional<torch::autograd::InputMetadata>>;
    const auto outputs = IValuePacker<Outputs>::pack(get_input_metadata(next_edges()));
    auto result = compiler->call_function(self, "apply_functional", function, gradients, {unpack()}, outputs);
    saved.after(kept);
    return result;
  }

  const Rule& rule;
  const Numbers numbers;
  torch::autograd::SavedVariable kept;
};

// torch holds nodes by an intrusive pointer from 2.13 on, by a shared one before.
template <class T, class... Args>
auto make_node(Args&&... args) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, T>) {
    return c10::make_intrusive<T>(std::forward<Args>(args)...);
  } else {
    return std::shared_ptr<T>(new T(std::forward<Args>(args)...), [](T* node) { deleteNode(node); });
  }
}

Tensor call_in_place(const Rule& rule, const Tensor& x, const Numbers& numbers) {
  if (!wants_graph(x)) {
    call(rule.kernel, {x}, numbers);
    return x;
  }
  torch::autograd::check_inplace(x, /*requires_grad=*/true);
  const auto node = make_node<Node>(rule, numbers, torch::autograd::collect_next_edges(x));
  if (rule.keeps_input) {
    node->kept = {x.clone(), /*is_output=*/false};
  }
  call(rule.kernel, {x}, numbers);
  torch::autograd::rebase_history(x, node);
  if (!rule.keeps_input) {
    node->kept = {x, /*is_output=*/true, /*is_inplace_on_view=*/x.is_view()};
  }
  return x;
}

Tensor call_out_of_place(const Rule& rule, const Tensor& x, const Numbers& numbers) {
  Tensor y = call(rule.kernel, {x}, numbers)[0].toTensor();
  if (wants_graph(x)) {
    const auto node = make_node<Node>(rule, numbers, torch::autograd::collect_next_edges(x));
    torch::autograd::set_history(y, node);
    node->kept = {rule.keeps_input ? x : y, /*is_output=*/!rule.keeps_input};
  }
  return y;
}

PyObject* call_activation(PyObject* capsule, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  const auto& rule = *static_cast<const Rule*>(PyCapsule_GetPointer(capsule, nullptr));
  if (transforming()) {
    return PyObject_Vectorcall(rule.under_transform.ptr(), args, n, nullptr);
  }
  TORCH_CHECK_TYPE(n > 0 && THPVariable_Check(args[0]), rule.name, ": the input must be a Tensor");
  const Tensor& x = THPVariable_Unpack(args[0]);
  Numbers numbers;
  for (Py_ssize_t i = 1; i < n; ++i) {
    numbers.push_back(THPUtils_unpackDouble(args[i]));
  }
  Tensor y;
  {
    const pybind11::gil_scoped_release no_gil;
    y = rule.in_place() ? call_in_place(rule, x, numbers) : call_out_of_place(rule, x, numbers);
  }
  return THPVariable_Wrap(std::move(y));
  END_HANDLE_TH_ERRORS
}

PyMethodDef kCallActivation = {
    "apply", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_activation)), METH_FASTCALL, nullptr
};

}  // namespace

// activation(name, kernel, slope, keeps_input, under_transform, differentiable_slope): a function (x, *numbers) -> y.
PyObject* activation(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  const char *name, *kernel, *slope;
  int keeps_input;
  PyObject *under_transform, *differentiable_slope;
  if (!PyArg_ParseTuple(
          args, "ssspOO", &name, &kernel, &slope, &keeps_input, &under_transform, &differentiable_slope
      )) {
    return nullptr;
  }
  auto& dispatcher = c10::Dispatcher::singleton();
  auto* rule = new Rule{
      name,
      dispatcher.findSchemaOrThrow(kernel, ""),
      dispatcher.findSchemaOrThrow(slope, ""),
      keeps_input != 0,
      pybind11::reinterpret_borrow<pybind11::object>(under_transform),
      pybind11::reinterpret_borrow<pybind11::object>(differentiable_slope),
  };
  const auto capsule = pybind11::reinterpret_steal<pybind11::object>(PyCapsule_New(rule, nullptr, nullptr));
  return PyCFunction_New(&kCallActivation, capsule.ptr());
  END_HANDLE_TH_ERRORS
}

}  // namespace torchnotes
