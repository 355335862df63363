// Turns the Python lists and dicts of an optimizer into the arguments of an update operator. The lists of tensors do
// not go back through Python: for a hundred small parameters that would take longer than updating them
// (docs/decisions/optimizer-step.md).
#include "gather.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>
#include <vector>

#include "from_python.h"
#include "is_supported.h"
#include "parameters.h"
#include "written.h"

namespace torchnotes {
namespace {

namespace py = pybind11;

// Parameters of one device and dtype, their gradients, and their states by name.
struct Bundle {
  at::Tensor first;
  std::vector<c10::List<at::Tensor>> lists;
};

constexpr const char* kBundle = "torchnotes.bundle";

bool is_supported(PyObject* object) {
  if (!is_plain_tensor(object)) {
    return false;
  }
  const at::Tensor& x = THPVariable_Unpack(object);
  return is_dense(x) && (x.is_cpu() || x.is_cuda()) && is_supported_dtype(c10::toRealValueType(x.scalar_type())) &&
         x.scalar_type() != at::kComplexHalf;
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
    return other.first.device() == w.device() && other.first.scalar_type() == w.scalar_type();
  });
  if (bundle == bundles.end()) {
    bundles.push_back({w, std::vector<c10::List<at::Tensor>>(2 + states.size())});
    bundle = bundles.end() - 1;
  }
  bundle->lists[0].push_back(w);
  bundle->lists[1].push_back(grad);
  for (size_t k = 0; k < states.size(); ++k) {
    bundle->lists[2 + k].push_back(*states[k]);
  }
}

py::object to_python(Bundle bundle) {
  auto own = std::make_unique<Bundle>(std::move(bundle));
  const auto free = [](PyObject* capsule) { delete static_cast<Bundle*>(PyCapsule_GetPointer(capsule, kBundle)); };
  const auto first = checked(THPVariable_Wrap(own->first));
  const auto capsule = checked(PyCapsule_New(own.get(), kBundle, free));
  own.release();
  return py::make_tuple(capsule, first);
}

c10::OperatorHandle operator_named(PyObject* name) {
  TORCH_CHECK_TYPE(PyUnicode_Check(name), "expected the name of an operator, got ", Py_TYPE(name)->tp_name);
  return c10::Dispatcher::singleton().findSchemaOrThrow(text_of(name), "");
}

// The arguments of an operator: first the lists of tensors at `places` of the bundle (-1: an empty list), then `rest`.
torch::jit::Stack arguments_of(const c10::OperatorHandle& op, PyObject* bundle, PyObject* places, PyObject* rest) {
  TORCH_CHECK_TYPE(
      PyCapsule_IsValid(bundle, kBundle) && PyTuple_Check(places) && PyTuple_Check(rest),
      op.schema().name(),
      ": expected a bundle and two tuples"
  );
  const auto& arguments = op.schema().arguments();
  const auto& lists = static_cast<const Bundle*>(PyCapsule_GetPointer(bundle, kBundle))->lists;
  torch::jit::Stack stack;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); ++i) {
    const int64_t place = THPUtils_unpackLong(PyTuple_GET_ITEM(places, i));
    stack.emplace_back(place < 0 ? c10::List<at::Tensor>() : lists.at(place));
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(rest); ++i) {
    stack.push_back(from_python(PyTuple_GET_ITEM(rest, i), arguments.at(stack.size()), op.schema().name()));
  }
  while (stack.size() < arguments.size()) {
    stack.push_back(default_of(arguments[stack.size()], op.schema().name()));
  }
  return stack;
}

}  // namespace

// gather(params, state, names, names_of_16_bits) collects the parameters that have gradients, the gradients, and the
// states with these names (names_of_16_bits for 16-bit parameters). Returns a list of pairs (bundle, its first
// parameter), one for each device and dtype, and a list of the parameters that lack a state. Everything is checked.
// Returns None if our kernels do not support one of the tensors.
PyObject* gather(PyObject*, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(
      n == 4 && (PyList_Check(args[0]) || PyTuple_Check(args[0])) && PyDict_Check(args[1]) && PyTuple_Check(args[2]) &&
          PyTuple_Check(args[3]),
      "gather: expected a list or tuple, a dict and two tuples"
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
    if (!is_supported(parameter) || !is_supported(gradient.ptr())) {
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

// call_on(name, bundle, places, rest) returns what the operator of this name returns, a tensor.
PyObject* call_on(PyObject*, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(n == 4, "call_on: expected the name of an operator, a bundle and two tuples");
  const auto op = operator_named(args[0]);
  auto stack = arguments_of(op, args[1], args[2], args[3]);
  {
    const py::gil_scoped_release no_gil;
    const at::AutoDispatchBelowAutograd below;
    op.callBoxed(stack);
  }
  return THPVariable_Wrap(stack.at(0).toTensor());
  END_HANDLE_TH_ERRORS
}

// update(name, calls, new_states) calls the operator of this name with each (bundle, places, rest), and then updates
// the first dict of each pair in `new_states` with the second. Everything is checked before the first call, and no
// Python runs after that, so that no interrupt comes in between.
PyObject* update(PyObject*, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(
      n == 3 && PyList_Check(args[1]) && PyList_Check(args[2]), "update: expected the name of an operator and two lists"
  );
  const auto op = operator_named(args[0]);
  std::vector<torch::jit::Stack> calls;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[1]); ++i) {
    PyObject *bundle, *places, *rest;
    if (!PyArg_ParseTuple(PyList_GET_ITEM(args[1], i), "OOO", &bundle, &places, &rest)) {
      return nullptr;
    }
    calls.push_back(arguments_of(op, bundle, places, rest));
    for_each_tensor(written_arguments(op.schema(), calls.back()), [](const at::Tensor& x) {
      check_writable(x);
      check_no_overlap(x);
    });
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
    for (auto& stack : calls) {
      op.callBoxed(stack);
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
