// Calls an operator y = f(x, ...) that is differentiable in its first arguments; the backward operator returns their
// gradients. The node of the graph is in C++ too: a Python Function costs several times as much as the kernel on a
// small tensor (docs/decisions/autograd-calls.md). The rules stay in Python (torchnotes/ops).
//
//   no graph needed   y = kernel(x, ...)
//   a graph           the same, and a node that saves what the backward operator needs, by its names in the schemas
//   its backward      backward(g, saved_values...), or a Python function of the same arguments if that needs a graph in
//   turn.
//                     If the operator has an argument `output_mask`, it computes only the gradients that are needed
//   anything else     the fallback in Python: under a transform, for a gradient by another argument, and under autocast
//                     if f respects it
//
// A kernel may write y over x. The backward operator may write the gradient over a saved tensor. Further results of a
// kernel are not differentiable.
#include "python/node.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "python/call_mode.h"
#include "python/from_python.h"

namespace torchnotes {
namespace {

using at::Tensor;
using c10::IValue;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::jit::Stack;

// An argument of the backward operator: an argument or a result of the kernel, which may be saved for one gradient
// only; the mask of the gradients that are needed; or nothing.
struct BackwardArgument {
  enum { kArgument, kResult, kOutputMask, kNothing } kind;
  size_t index = 0;
  std::optional<size_t> only_for = std::nullopt;

  bool is_input() const { return kind == kArgument && index == 0; }
  bool is_output() const { return kind == kResult && index == 0; }
};

std::optional<size_t> find(const std::vector<c10::Argument>& arguments, const std::string& name) {
  const auto found =
      std::find_if(arguments.begin(), arguments.end(), [&](const auto& argument) { return argument.name() == name; });
  return found == arguments.end() ? std::nullopt : std::optional<size_t>(found - arguments.begin());
}

bool writes_input(const c10::FunctionSchema& schema) { return schema.is_mutable({c10::SchemaArgType::input, 0}); }

std::optional<size_t> written_argument(const c10::FunctionSchema& schema) {
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    if (schema.is_mutable({c10::SchemaArgType::input, i})) {
      return i;
    }
  }
  return std::nullopt;
}

// One per function, created at import and never freed, because nodes may outlive the interpreter.
struct Rule {
  std::string name;
  c10::OperatorHandle kernel;
  c10::OperatorHandle backward;
  std::vector<BackwardArgument> saved_values;  // the arguments of `backward` after the gradient
  bool respects_autocast;
  pybind11::object fallback;                 // f, for calls that are not handled here
  pybind11::object differentiable_backward;  // `backward` with a graph
  bool in_place;
  std::optional<size_t> backward_writes;  // the argument of `backward` that becomes the gradient
  size_t results;                         // how many to return; y is the first

  // The number of gradients; they belong to the first arguments.
  size_t gradients() const { return backward_writes ? 1 : backward.schema().returns().size(); }

  bool saves_input() const {
    return std::any_of(saved_values.begin(), saved_values.end(), [](const BackwardArgument& from) {
      return from.is_input();
    });
  }
};

// Fills in the defaults of trailing arguments.
void add_defaults(const c10::FunctionSchema& schema, Stack& stack) {
  const auto& arguments = schema.arguments();
  for (size_t i = stack.size(); i < arguments.size(); ++i) {
    stack.push_back(default_of(arguments[i], schema.name()));
  }
}

Stack call(const c10::OperatorHandle& op, Stack stack) {
  const at::AutoDispatchBelowAutograd below;
  add_defaults(op.schema(), stack);
  op.callBoxed(stack);
  return stack;
}

variable_list as_tensors(const Stack& results) {
  variable_list found(results.size());
  std::transform(results.begin(), results.end(), found.begin(), [](const IValue& result) { return result.toTensor(); });
  return found;
}

pybind11::object to_python(const IValue& value) {
  if (value.isTensor()) {
    return checked(THPVariable_Wrap(value.toTensor()));
  }
  if (value.isDouble()) {
    return pybind11::float_(value.toDouble());
  }
  if (value.isDoubleList()) {
    return pybind11::cast(value.toDoubleVector());
  }
  if (value.isBoolList()) {
    return pybind11::cast(value.toBoolList().vec());
  }
  if (value.isBool()) {
    return pybind11::bool_(value.toBool());
  }
  return value.isInt() ? pybind11::object(pybind11::int_(value.toInt())) : pybind11::none();
}

struct Saved {
  IValue constant;  // if it is not a tensor
  std::optional<SavedVariable> tensor;
  bool is_output;
};

struct Node final : torch::autograd::Node {
  Node(const Rule& rule, torch::autograd::edge_list&& next) : torch::autograd::Node(std::move(next)), rule(rule) {}

  std::string name() const override { return rule.name + "Backward"; }

  void save(const IValue& value, bool is_output, bool is_inplace_on_view) {
    if (value.isTensor()) {
      saved_values.push_back({IValue(), SavedVariable(value.toTensor(), is_output, is_inplace_on_view), is_output});
    } else {
      saved_values.push_back({value, std::nullopt, false});
    }
  }

  variable_list apply(variable_list&& gradients) override {
    if (!gradients[0].defined()) {
      return variable_list(rule.gradients());
    }
    Stack arguments = unpack(gradients[0]);
    if (at::GradMode::is_enabled() || transforming()) {
      return differentiable_backward(arguments);
    }
    if (rule.backward_writes) {
      const Tensor gradient = arguments[*rule.backward_writes].toTensor().detach();
      call(rule.backward, std::move(arguments));
      return {gradient};
    }
    return as_tensors(call(rule.backward, std::move(arguments)));
  }

  Stack unpack(const Tensor& g) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Stack arguments = {g};
    for (size_t i = 0; i < saved_values.size(); ++i) {
      arguments.push_back(saved_values[i].tensor ? IValue(saved_values[i].tensor->unpack(getptr())) : constant(i));
    }
    return arguments;
  }

  // A saved value that is not a tensor, or the mask of the gradients that this backward pass needs.
  IValue constant(size_t i) const {
    if (rule.saved_values[i].kind != BackwardArgument::kOutputMask) {
      return saved_values[i].constant;
    }
    c10::List<bool> output_mask;
    for (size_t j = 0; j < rule.gradients(); ++j) {
      output_mask.push_back(task_should_compute_output(j));
    }
    return output_mask;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Saved& one : saved_values) {
      if (one.tensor) {
        one.tensor->reset_data();
      }
    }
  }

  variable_list differentiable_backward(const Stack& arguments) const {
    const pybind11::gil_scoped_acquire gil;
    pybind11::tuple converted(arguments.size());
    for (size_t i = 0; i < arguments.size(); ++i) {
      converted[i] = to_python(arguments[i]);
    }
    const pybind11::object result = rule.differentiable_backward(*converted);
    if (!pybind11::isinstance<pybind11::tuple>(result)) {
      return {result.cast<Tensor>()};
    }
    variable_list gradients;
    for (const auto& one : result) {
      gradients.push_back(one.is_none() ? Tensor() : one.cast<Tensor>());
    }
    return gradients;
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(rule.name);
    for (size_t i = 0; i < saved_values.size(); ++i) {
      const IValue value = constant(i);
      if (saved_values[i].tensor) {
        args.collect(*saved_values[i].tensor, saved_values[i].is_output);
      } else if (value.isDouble()) {
        args.collect(std::vector<double>{value.toDouble()});
      } else if (value.isDoubleList()) {
        args.collect(value.toDoubleVector());
      } else if (value.isBoolList()) {
        args.collect(value.toBoolList().vec());
      } else {
        args.collect(value.isNone() ? std::string("none") : std::to_string(value.toScalar().toLong()));
      }
    }
  }

  // Compiled autograd traces with proxies for tensors and expects a function of them to put into its graph.
  variable_list apply_with_saved(
      const variable_list& gradients, torch::dynamo::autograd::SwapSavedVariables& saved
  ) override {
    using namespace torch::dynamo::autograd;
    std::vector<at::TypePtr> types;
    std::vector<IValue> tensors;
    for (Saved& one : saved_values) {
      if (one.tensor) {
        saved.before(*one.tensor);
        types.push_back(at::TensorType::get());
        tensors.emplace_back(one.tensor->unpack(getptr()));
      }
    }
    std::vector<IValue> constants;
    for (size_t i = 0; i < saved_values.size(); ++i) {
      constants.push_back(saved_values[i].tensor ? IValue(Tensor()) : constant(i));
    }
    const auto backward = [&rule = rule, constants](const variable_list& g, const std::vector<IValue>& tensors) {
      return g[0].defined() ? traced_backward(rule, g[0], constants, tensors) : variable_list(rule.gradients());
    };
    const auto& compiler = getPyCompilerInterface();
    const auto self = saved.get_py_compiler();
    const auto function =
        compiler->bind_function(self, name(), backward, types, /*is_custom_function=*/true, /*is_traceable=*/true);
    using Outputs = std::vector<std::optional<torch::autograd::InputMetadata>>;
    const auto outputs = IValuePacker<Outputs>::pack(get_input_metadata(next_edges()));
    auto result = compiler->call_function(self, "apply_functional", function, gradients, tensors, outputs);
    for (Saved& one : saved_values) {
      if (one.tensor) {
        saved.after(*one.tensor);
      }
    }
    return result;
  }

  static variable_list traced_backward(
      const Rule& rule, const Tensor& g, const std::vector<IValue>& constants, const std::vector<IValue>& tensors
  ) {
    Stack arguments = {g};
    auto next = tensors.begin();
    for (const IValue& constant : constants) {
      arguments.push_back(constant.isTensor() ? *next++ : constant);
    }
    if (rule.backward_writes) {
      const Tensor gradient = arguments[*rule.backward_writes].toTensor().clone();
      arguments[*rule.backward_writes] = gradient;
      call(rule.backward, std::move(arguments));
      return {gradient};
    }
    return as_tensors(call(rule.backward, std::move(arguments)));
  }

  const Rule& rule;
  std::vector<Saved> saved_values;
};

// torch holds nodes by an intrusive pointer since 2.13, by a shared pointer before.
template <class T, class... Args>
auto make_node(Args&&... args) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, T>) {
    return c10::make_intrusive<T>(std::forward<Args>(args)...);
  } else {
    return std::shared_ptr<T>(new T(std::forward<Args>(args)...), [](T* node) { deleteNode(node); });
  }
}

// The arguments that have gradients.
variable_list differentiated(const Rule& rule, const Stack& arguments) {
  variable_list found(rule.gradients());
  for (size_t i = 0; i < found.size(); ++i) {
    if (arguments[i].isTensor()) {
      found[i] = arguments[i].toTensor();
    }
  }
  return found;
}

variable_list call_without_graph(const Rule& rule, Stack arguments) {
  const Tensor x = arguments[0].toTensor();
  const Stack results = call(rule.kernel, std::move(arguments));
  return rule.in_place ? variable_list{x} : as_tensors(results);
}

variable_list call_with_graph(const Rule& rule, Stack arguments) {
  const Tensor x = arguments[0].toTensor();
  if (rule.in_place) {
    torch::autograd::check_inplace(x, /*requires_grad=*/true);
  }
  const auto node = make_node<Node>(rule, torch::autograd::collect_next_edges(differentiated(rule, arguments)));
  const Tensor before = rule.in_place && rule.saves_input() ? x.clone() : x;
  const Stack results = call(rule.kernel, arguments);
  Tensor y = rule.in_place ? x : results[0].toTensor();
  if (rule.in_place) {
    torch::autograd::rebase_history(y, node);
  } else {
    torch::autograd::set_history(y, node);
  }
  arguments[0] = before;
  node->saved_values.reserve(rule.saved_values.size());
  for (const BackwardArgument& from : rule.saved_values) {
    const bool unused = from.only_for && !node->should_compute_output(*from.only_for);
    if (unused || from.kind == BackwardArgument::kOutputMask || from.kind == BackwardArgument::kNothing) {
      node->save(IValue(), false, false);
    } else if (from.is_output()) {
      node->save(y, /*is_output=*/true, /*is_inplace_on_view=*/rule.in_place && y.is_view());
    } else {
      node->save(
          (from.kind == BackwardArgument::kResult ? results : arguments)[from.index], /*is_output=*/false, false
      );
    }
  }
  variable_list all = rule.in_place ? variable_list(1) : as_tensors(results);
  all[0] = y;
  return all;
}

// The gradient overwrites x, so nothing else may use that memory.
void check_can_overwrite(const Rule& rule, const Tensor& x) {
  torch::autograd::check_inplace(x, /*requires_grad=*/true);  // rejects leaves and their views
  TORCH_CHECK(
      x.is_non_overlapping_and_dense(),
      rule.name,
      ": expected a dense input without overlapping elements, because its gradient overwrites it"
  );
}

bool autocasts(c10::DeviceType device) {
  return at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
}

PyObject* call_differentiable(PyObject* capsule, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  const auto& rule = *static_cast<const Rule*>(PyCapsule_GetPointer(capsule, nullptr));
  const auto fallback = [&] { return PyObject_Vectorcall(rule.fallback.ptr(), args, n, nullptr); };
  if (transforming()) {
    return fallback();
  }
  const auto& expected = rule.kernel.schema().arguments();
  TORCH_CHECK_TYPE(n > 0 && THPVariable_Check(args[0]), rule.name, ": the input must be a Tensor");
  TORCH_CHECK_TYPE(
      n <= Py_ssize_t(expected.size()) && (n == Py_ssize_t(expected.size()) || expected[n].default_value()),
      rule.name,
      ": expected ",
      expected.size(),
      " arguments, got ",
      n
  );
  const auto differentiable_by = Py_ssize_t(rule.gradients());
  bool graph = false;
  Stack arguments;
  arguments.reserve(expected.size());
  for (Py_ssize_t i = 0; i < n; ++i) {
    arguments.push_back(from_python(args[i], expected[i], rule.name));
    if (arguments[i].isTensor() && wants_graph(arguments[i].toTensor())) {
      if (i >= differentiable_by) {
        return fallback();
      }
      graph = true;
    }
  }
  add_defaults(rule.kernel.schema(), arguments);
  const Tensor x = arguments[0].toTensor();
  if (rule.respects_autocast && autocasts(x.device().type())) {
    return fallback();
  }
  variable_list results;
  {
    const pybind11::gil_scoped_release no_gil;
    if (graph && rule.backward_writes) {
      check_can_overwrite(rule, x);
    }
    results = graph ? call_with_graph(rule, std::move(arguments)) : call_without_graph(rule, std::move(arguments));
  }
  results.resize(rule.results);
  return results.size() == 1 ? THPVariable_Wrap(std::move(results[0])) : pybind11::cast(results).release().ptr();
  END_HANDLE_TH_ERRORS
}

PyMethodDef kCallDifferentiable = {
    "apply", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_differentiable)), METH_FASTCALL, nullptr
};

// Describes the arguments of the backward operator after the gradient. `saved_values` holds pairs (name or None, None
// or the index of the only gradient that needs it).
std::vector<BackwardArgument> backward_arguments(const c10::FunctionSchema& kernel, PyObject* saved_values) {
  using Saved = std::vector<std::pair<std::optional<std::string>, std::optional<size_t>>>;
  std::vector<BackwardArgument> found;
  for (const auto& [name, only_for] : pybind11::cast<Saved>(pybind11::handle(saved_values))) {
    if (!name) {
      found.push_back({BackwardArgument::kNothing});
    } else if (*name == "output_mask") {
      found.push_back({BackwardArgument::kOutputMask});
    } else if (const auto argument = find(kernel.arguments(), *name)) {
      found.push_back({BackwardArgument::kArgument, *argument, only_for});
    } else {
      const auto result = find(kernel.returns(), *name);
      // An in-place operator returns nothing; its result is what it writes.
      TORCH_CHECK(result || writes_input(kernel), kernel.name(), ": found no argument or result named ", *name);
      found.push_back({BackwardArgument::kResult, result.value_or(0), only_for});
    }
  }
  return found;
}

}  // namespace

// differentiable(name, kernel, backward, saved_values, respects_autocast, results, fallback, differentiable_backward)
// returns a function with the positional arguments of the kernel that returns the first `results` of its results.
// `saved` describes the arguments of `backward` after the gradient (see backward_arguments).
PyObject* differentiable(PyObject*, PyObject* args) {
  HANDLE_TH_ERRORS
  const char *name, *kernel_name, *backward_name;
  int respects_autocast;
  Py_ssize_t results;
  PyObject *saved_values, *fallback, *differentiable_backward;
  if (!PyArg_ParseTuple(
          args,
          "sssOpnOO",
          &name,
          &kernel_name,
          &backward_name,
          &saved_values,
          &respects_autocast,
          &results,
          &fallback,
          &differentiable_backward
      )) {
    return nullptr;
  }
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto kernel = dispatcher.findSchemaOrThrow(kernel_name, "");
  const auto backward = dispatcher.findSchemaOrThrow(backward_name, "");
  auto rule = std::make_unique<Rule>(Rule{
      name,
      kernel,
      backward,
      backward_arguments(kernel.schema(), saved_values),
      respects_autocast != 0,
      pybind11::reinterpret_borrow<pybind11::object>(fallback),
      pybind11::reinterpret_borrow<pybind11::object>(differentiable_backward),
      writes_input(kernel.schema()),
      written_argument(backward.schema()),
      static_cast<size_t>(results),
  });
  const auto capsule = checked(PyCapsule_New(rule.get(), nullptr, nullptr));
  rule.release();
  return PyCFunction_New(&kCallDifferentiable, capsule.ptr());
  END_HANDLE_TH_ERRORS
}

}  // namespace torchnotes
