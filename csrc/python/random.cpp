// Fills tensors with random numbers. Drawing the key and disabling gradients in Python takes longer than torch fills a
// small tensor (docs/decisions/random-keys.md).
#include "python/random.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <limits>
#include <memory>

#include "python/call_mode.h"
#include "python/from_python.h"
#include "python/is_supported.h"

namespace torchnotes {
namespace {

// Whether nothing but our kernel needs to see the call.
bool fills_directly(PyObject* const* args, Py_ssize_t n) {
  if (n == 0 || !is_supported(args[0]) || !THPVariable_Unpack(args[0]).is_cpu()) {
    return false;
  }
  if (transforming() || c10::impl::TorchDispatchModeTLS::any_modes_set()) {
    return false;
  }
  for (Py_ssize_t i = 1; i < n; ++i) {
    if (!THPUtils_checkDouble(args[i])) {
      return false;
    }
  }
  return true;
}

PyObject* fill(PyObject* capsule, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  const auto& op = *static_cast<const c10::OperatorHandle*>(PyCapsule_GetPointer(capsule, nullptr));
  if (!fills_directly(args, n)) {
    Py_RETURN_FALSE;
  }
  torch::jit::Stack arguments = {THPVariable_Unpack(args[0]), at::Tensor()};
  for (Py_ssize_t i = 1; i < n; ++i) {
    arguments.emplace_back(THPUtils_unpackDouble(args[i]));
  }
  const auto& expected = op.schema().arguments();
  while (arguments.size() < expected.size()) {
    arguments.push_back(default_of(expected[arguments.size()], op.schema().name()));
  }
  const pybind11::gil_scoped_release no_gil;
  const at::NoGradGuard no_grad;
  arguments[1] = at::randint(0, std::numeric_limits<int64_t>::max(), {2}, at::kLong);
  op.callBoxed(arguments);
  Py_RETURN_TRUE;
  END_HANDLE_TH_ERRORS
}

PyMethodDef kFill = {"fill", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fill)), METH_FASTCALL, nullptr};

}  // namespace

// filling(name) returns a function fill(x, *numbers) that fills x by the operator of this name, with a key that it
// draws. It returns whether it did: if not, Python must make the call.
PyObject* filling(PyObject*, PyObject* name) {
  HANDLE_TH_ERRORS
  auto op = std::make_unique<c10::OperatorHandle>(c10::Dispatcher::singleton().findSchemaOrThrow(text_of(name), ""));
  const auto capsule = checked(PyCapsule_New(op.get(), nullptr, nullptr));
  op.release();  // lives as long as the process, like the function
  return PyCFunction_New(&kFill, capsule.ptr());
  END_HANDLE_TH_ERRORS
}

}  // namespace torchnotes
