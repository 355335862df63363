// Collects tensors from the Python lists and dicts of an optimizer, and updates them. The lists of tensors do not go
// back through Python: for a hundred small parameters that would take longer than updating them
// (docs/decisions/optimizer-step.md).
#include "python/optimizers.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>
#include <vector>

#include "ops/optimizers.h"
#include "python/from_python.h"
#include "python/is_supported.h"
#include "tensors/parameters.h"
#include "tensors/written.h"

namespace torchnotes {
namespace {

namespace py = pybind11;

// Parameters of one device and dtype, their gradients, and their states by name. All of them match.
struct Bundle {
  std::vector<std::vector<at::Tensor>> lists;
  bool ordinary = true;  // whether the dispatcher would only pass the tensors on to the kernels
};

constexpr const char* kBundle = "torchnotes.bundle";

bool is_supported_parameter(PyObject* object) {
  if (!is_plain_tensor(object)) {
    return false;
  }
  const at::Tensor& x = THPVariable_Unpack(object);
  return is_dense(x) && (x.is_cpu() || x.is_cuda()) && is_supported_dtype(c10::toRealValueType(x.scalar_type())) &&
         x.scalar_type() != at::kComplexHalf;
}

// Whether x is a plain tensor in the dispatcher's eyes too, and may be written.
bool is_ordinary(const at::Tensor& x) {
  constexpr c10::DispatchKeySet kKeys({
      c10::DispatchKey::CPU,
      c10::DispatchKey::CUDA,
      c10::DispatchKey::ADInplaceOrView,
      c10::DispatchKey::AutogradCPU,
      c10::DispatchKey::AutogradCUDA,
      c10::DispatchKey::AutocastCPU,
      c10::DispatchKey::AutocastCUDA,
  });
  return (x.key_set() | kKeys) == kKeys && !x.is_inference();
}

// Looks up tensors in a dict. The hash of a tensor is computed in Python and equals its address, which is checked for
// the first tensor only.
class Hashes {
 public:
  PyObject* find(PyObject* dict, PyObject* tensor) {
    const auto address = reinterpret_cast<Py_hash_t>(tensor);
    if (!known_) {
      known_ = true;
      const Py_hash_t hash = PyObject_Hash(tensor);  // runs Python, which an interrupt may abort
      if (hash == -1) {
        throw python_error();
      }
      are_addresses_ = hash == address;
    }
#if PY_VERSION_HEX < 0x030D0000
    PyObject* const found =
        are_addresses_ ? _PyDict_GetItem_KnownHash(dict, tensor, address) : PyDict_GetItemWithError(dict, tensor);
#else
    PyObject* const found = PyDict_GetItemWithError(dict, tensor);
#endif
    if (found == nullptr && PyErr_Occurred()) {
      throw python_error();
    }
    return found;
  }

 private:
  bool known_ = false, are_addresses_ = false;
};

struct Name {
  PyObject* object;
  const char* text;
  bool is_step;
  bool is_average;  // torch updates it with lerp_, which requires a single dtype
};

std::vector<Name> names_in(PyObject* tuple) {
  std::vector<Name> names;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    PyObject* const name = PyTuple_GET_ITEM(tuple, i);
    const char* const text = text_of(name);
    const std::string_view view(text);
    names.push_back({name, text, view == "step", view == "exp_avg" || view == "grad_avg"});
  }
  return names;
}

const at::Tensor* state_of(PyObject* states, const Name& name) {
  TORCH_CHECK_TYPE(
      states == nullptr || PyDict_Check(states), "expected a dict of states, got ", Py_TYPE(states)->tp_name
  );
  PyObject* const state = states == nullptr ? nullptr : PyDict_GetItemWithError(states, name.object);
  if (state == nullptr && PyErr_Occurred()) {
    throw python_error();
  }
  if (state == nullptr || state == Py_None) {
    return nullptr;
  }
  TORCH_CHECK_TYPE(
      THPVariable_Check(state), "expected a tensor as state ", name.text, ", got ", Py_TYPE(state)->tp_name
  );
  return &THPVariable_Unpack(state);
}

// Whether x is something that torch's step accepts and our kernels do not.
bool differs_only_in_dtype(const at::Tensor& w, const at::Tensor& x) {
  return x.scalar_type() != w.scalar_type() && x.device() == w.device() && x.sizes() == w.sizes() && is_dense(x);
}

// The same for a step count.
bool needs_torch_step(const at::Tensor& step) {
  return step.is_neg() || (step.numel() == 1 && step.scalar_type() != at::kFloat && step.scalar_type() != at::kDouble);
}

// Finds and checks those states of a parameter that exist. Returns false if one of them requires torch's step.
bool find_states(
    std::vector<const at::Tensor*>& found, const at::Tensor& w, PyObject* states, const std::vector<Name>& names
) {
  found.clear();
  for (const Name& name : names) {
    if (const at::Tensor* const state = state_of(states, name)) {
      if (name.is_step ? needs_torch_step(*state) : !name.is_average && differs_only_in_dtype(w, *state)) {
        return false;
      }
      name.is_step ? check_step(w, *state) : check_like_parameter(w, *state, name.text);
      check_no_overlap(*state);
      found.push_back(state);
    }
  }
  return true;
}

bool allows_other_grad_dtype(const at::Tensor& w, const std::vector<Name>& names) {
  return w.grad_dtype() != w.scalar_type() &&
         std::none_of(names.begin(), names.end(), [](const Name& name) { return name.is_average; });
}

void add_to(
    std::vector<Bundle>& bundles,
    const at::Tensor& w,
    const at::Tensor& grad,
    const std::vector<const at::Tensor*>& states
) {
  auto bundle = std::find_if(bundles.begin(), bundles.end(), [&](const Bundle& other) {
    const at::Tensor& first = other.lists[0][0];
    return first.device() == w.device() && first.scalar_type() == w.scalar_type();
  });
  if (bundle == bundles.end()) {
    bundles.push_back({std::vector<std::vector<at::Tensor>>(2 + states.size())});
    bundle = bundles.end() - 1;
  }
  const auto add = [&](size_t list, const at::Tensor& x) {
    bundle->lists[list].push_back(x);
    bundle->ordinary = bundle->ordinary && is_ordinary(x);
  };
  add(0, w);
  add(1, grad);
  for (size_t k = 0; k < states.size(); ++k) {
    add(2 + k, *states[k]);
  }
}

py::object to_python(Bundle bundle) {
  auto own = std::make_unique<Bundle>(std::move(bundle));
  const auto free = [](PyObject* capsule) { delete static_cast<Bundle*>(PyCapsule_GetPointer(capsule, kBundle)); };
  const auto first = checked(THPVariable_Wrap(own->lists[0][0]));
  const auto capsule = checked(PyCapsule_New(own.get(), kBundle, free));
  own.release();
  return py::make_tuple(capsule, first);
}

const Bundle& bundle_in(PyObject* capsule) {
  TORCH_CHECK_TYPE(PyCapsule_IsValid(capsule, kBundle), "expected a bundle, got ", Py_TYPE(capsule)->tp_name);
  return *static_cast<const Bundle*>(PyCapsule_GetPointer(capsule, kBundle));
}

// An update operator, which is looked up once.
struct Operator {
  explicit Operator(const char* name, UpdateOperator function)
      : name(name), handle(c10::Dispatcher::singleton().findSchemaOrThrow(name, "")), function(function) {}

  std::string_view name;
  c10::OperatorHandle handle;
  UpdateOperator function;
};

const Operator& operator_named(PyObject* name) {
  static const std::array operators = {
      Operator("torchnotes::adam_", adam), Operator("torchnotes::rmsprop_", rmsprop), Operator("torchnotes::sgd_", sgd)
  };
  const std::string_view text = text_of(name);
  for (const Operator& op : operators) {
    if (op.name == text) {
      return op;
    }
  }
  TORCH_CHECK(false, "expected an update operator, got ", text);
}

// Whether the dispatcher would call nothing but the kernel for ordinary tensors: no profiler, mode or transform sees
// the call.
bool is_unobserved() {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  return (keys.included_ - c10::default_included_set).empty() && keys.excluded_ == c10::default_excluded_set &&
         !at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION);
}

// A call of an update operator for a bundle. The bundle must outlive it.
class Call {
 public:
  // positions: those of the operator's lists in the bundle, or -1 for an empty list. rest: the other arguments.
  Call(const Operator& op, PyObject* bundle, PyObject* positions, PyObject* rest)
      : op_(op), bundle_(bundle_in(bundle)) {
    TORCH_CHECK_TYPE(PyTuple_Check(positions) && PyTuple_Check(rest), op.name, ": expected two tuples");
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(positions); ++i) {
      const int64_t position = THPUtils_unpackLong(PyTuple_GET_ITEM(positions, i));
      lists_.push_back(position < 0 ? at::TensorList() : bundle_.lists.at(position));
    }
    const auto& arguments = op.handle.schema().arguments();
    numbers_.reserve(arguments.size() - lists_.size());
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(rest); ++i) {
      const auto& argument = arguments.at(lists_.size() + i);
      numbers_.push_back(from_python(PyTuple_GET_ITEM(rest, i), argument, op.handle.schema().name()));
    }
    for (size_t i = lists_.size() + numbers_.size(); i < arguments.size(); ++i) {
      numbers_.push_back(default_of(arguments[i], op.handle.schema().name()));
    }
    is_direct_ = bundle_.ordinary && is_unobserved();
    if (!is_direct_) {
      for_each_written(check_writable);
    }
    if (unscales()) {
      std::for_each(lists_[1].begin(), lists_[1].end(), check_no_overlap);
    }
  }

  void run() const {
    if (is_direct_) {
      op_.function({lists_, numbers_, /*checked=*/true});
      for_each_written([](const at::Tensor& x) { x.unsafeGetTensorImpl()->bump_version(); });
      return;
    }
    torch::jit::Stack stack;
    for (const at::TensorList& list : lists_) {
      stack.emplace_back(list);
    }
    stack.insert(stack.end(), numbers_.begin(), numbers_.end());
    op_.handle.callBoxed(stack);
  }

 private:
  // Whether the gradients are unscaled, and thereby written.
  bool unscales() const { return !option_of(numbers_, kGradScale).isNone(); }

  template <class F>
  void for_each_written(const F& f) const {
    for (size_t i = 0; i < lists_.size(); ++i) {
      if (i != 1 || unscales()) {
        std::for_each(lists_[i].begin(), lists_[i].end(), f);
      }
    }
  }

  const Operator& op_;
  const Bundle& bundle_;
  c10::SmallVector<at::TensorList, 8> lists_;
  std::vector<c10::IValue> numbers_;
  bool is_direct_;
};

}  // namespace

// collect_parameters(params, state, names, names_of_16_bits) finds the parameters that have gradients, the gradients,
// and the states with these names (names_of_16_bits for 16-bit parameters). Returns a list of pairs (bundle, its first
// parameter), one for each device and dtype, and a list of the parameters that lack a state. Everything is checked.
// Returns None if our kernels do not support one of the tensors.
PyObject* collect_parameters(PyObject*, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(
      n == 4 && (PyList_Check(args[0]) || PyTuple_Check(args[0])) && PyDict_Check(args[1]) && PyTuple_Check(args[2]) &&
          PyTuple_Check(args[3]),
      "collect_parameters: expected a list or tuple, a dict and two tuples"
  );
  const std::array names = {names_in(args[2]), names_in(args[3])};
  std::vector<Bundle> bundles;
  std::vector<const at::Tensor*> found_states;
  Hashes hashes;
  py::list missing;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(args[0]); ++i) {
    const auto reference = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(args[0], i));
    PyObject* const parameter = reference.ptr();
    TORCH_CHECK_TYPE(THPVariable_Check(parameter), "expected a tensor, got ", Py_TYPE(parameter)->tp_name);
    const at::Tensor& w = THPVariable_Unpack(parameter);
    const at::Tensor& grad = w.grad();
    if (!grad.defined()) {
      continue;
    }
    const auto gradient = checked(THPVariable_Wrap(grad));
    if (!is_supported_parameter(parameter) || !is_supported_parameter(gradient.ptr())) {
      Py_RETURN_NONE;
    }
    const auto& of_parameter = names[at::isReducedFloatingType(w.scalar_type()) ? 1 : 0];
    if (differs_only_in_dtype(w, grad) && allows_other_grad_dtype(w, of_parameter)) {
      Py_RETURN_NONE;
    }
    check_no_overlap(w);
    check_like_parameter(w, grad, "gradient");
    PyObject* const states = hashes.find(args[1], parameter);
    if (!find_states(found_states, w, states, of_parameter)) {
      Py_RETURN_NONE;
    }
    if (found_states.size() == of_parameter.size()) {
      add_to(bundles, w, grad, found_states);
    } else {
      missing.append(py::handle(parameter));
    }
  }
  py::list found;
  for (Bundle& bundle : bundles) {
    found.append(to_python(std::move(bundle)));
  }
  return py::make_tuple(found, missing).release().ptr();
  END_HANDLE_TH_ERRORS
}

// norm_of_gradients(bundle) returns the norm of all gradients of a bundle taken as one vector.
PyObject* norm_of_gradients(PyObject*, PyObject* bundle) {
  HANDLE_TH_ERRORS
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchnotes::gradient_norm", "")
                             .typed<at::Tensor(at::TensorList)>();
  const at::TensorList gradients = bundle_in(bundle).lists[1];
  at::Tensor norm;
  {
    const py::gil_scoped_release no_gil;
    const at::AutoDispatchBelowAutograd below;
    norm = op.call(gradients);
  }
  return THPVariable_Wrap(std::move(norm));
  END_HANDLE_TH_ERRORS
}

// update_parameters(name, calls, new_states) calls the operator of this name with each (bundle, positions, rest), and
// then updates the first dict of each pair in `new_states` with the second. Everything is checked before the first
// call, and no Python runs after that, so that no interrupt comes in between.
PyObject* update_parameters(PyObject*, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(
      n == 3 && PyList_Check(args[1]) && PyList_Check(args[2]),
      "update_parameters: expected the name of an operator and two lists"
  );
  const Operator& op = operator_named(args[0]);
  std::vector<Call> calls;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); ++i) {
    PyObject *bundle, *positions, *rest;
    if (!PyArg_ParseTuple(PyList_GET_ITEM(args[1], i), "OOO", &bundle, &positions, &rest)) {
      return nullptr;
    }
    calls.emplace_back(op, bundle, positions, rest);
  }
  std::vector<std::pair<PyObject*, PyObject*>> new_states;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[2]); ++i) {
    auto& [states, more] = new_states.emplace_back();
    if (!PyArg_ParseTuple(PyList_GET_ITEM(args[2], i), "O!O!", &PyDict_Type, &states, &PyDict_Type, &more)) {
      return nullptr;
    }
  }
  {
    const py::gil_scoped_release no_gil;
    const at::AutoDispatchBelowAutograd below;
    for (const Call& call : calls) {
      call.run();
    }
  }
  for (const auto& [states, more] : new_states) {
    if (PyDict_Update(states, more) != 0) {
      return nullptr;
    }
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

}  // namespace torchnotes
