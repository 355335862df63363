// torchnotes._C: what Python needs from C++. Build information, differentiable operators (node.cpp),
// optimizer steps (optimizers.cpp), random fills (random.cpp), and checks made on every call, which in Python would
// cost more than the kernel on a small tensor. Importing it also registers the schemas (schemas.cpp).
#include <ATen/LegacyBatchedTensorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/python_variable.h>

#include <exception>

#include "build_info.h"
#include "ops/activations.h"
#include "python/call_mode.h"
#include "python/is_supported.h"
#include "python/node.h"
#include "python/optimizers.h"
#include "python/random.h"
#include "tensors/run.h"
#include "tensors/written.h"

namespace {

// Translates the current exception to Python. The hottest functions use it because HANDLE_TH_ERRORS costs more.
PyObject* raised() {
  torch::translate_exception_to_python(std::current_exception());
  return nullptr;
}

// dense_float(x): whether our kernels support x, a plain tensor (no subclass), in this call. Calls recorded by
// torch.jit.trace, or by torch.fx unless gradients are disabled, must consist of torch's operations: these have
// derivatives in the recorded graph, while our Functions are gone. The same holds for functionalized calls.
PyObject* dense_float(PyObject*, PyObject* x) try {
  return PyBool_FromLong(torchnotes::is_supported(x));
} catch (const std::exception&) {
  return raised();
}

// fits_layer(x, W, b): whether our kernels support x W^T + b: dense_float for each, one dtype and device, and matching
// sizes. b may be None.
PyObject* fits_layer(PyObject*, PyObject* const* args, Py_ssize_t n) try {
  using torchnotes::is_supported;
  if (n != 3 || !is_supported(args[0]) || !is_supported(args[1]) || (args[2] != Py_None && !is_supported(args[2]))) {
    Py_RETURN_FALSE;
  }
  const at::Tensor& x = THPVariable_Unpack(args[0]);
  const auto same_type = [&](const at::Tensor& other) {
    return other.scalar_type() == x.scalar_type() && other.device() == x.device();
  };
  const at::Tensor& W = THPVariable_Unpack(args[1]);
  bool fits = x.dim() >= 1 && W.dim() == 2 && x.size(-1) == W.size(1) && same_type(W);
  if (fits && args[2] != Py_None) {
    const at::Tensor& b = THPVariable_Unpack(args[2]);
    fits = b.dim() == 1 && b.size(0) == W.size(0) && same_type(b);
  }
  return PyBool_FromLong(fits);
} catch (const std::exception&) {
  return raised();
}

// batch_of(*args): the level and size of the innermost batch (is_batched) that tensors among the arguments belong to,
// or None.
PyObject* batch_of(PyObject*, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  int64_t level = 0, size = 0;
  for (Py_ssize_t i = 0; i < n; ++i) {
    const auto* const batched =
        THPVariable_Check(args[i]) ? at::maybeGetBatchedImpl(THPVariable_Unpack(args[i])) : nullptr;
    if (batched != nullptr && batched->bdims().back().level() > level) {
      level = batched->bdims().back().level();
      size = batched->value().size(batched->bdims().back().dim());
    }
  }
  if (level == 0) {
    Py_RETURN_NONE;
  }
  return pybind11::make_tuple(level, size).release().ptr();
  END_HANDLE_TH_ERRORS
}

// on_one_device(*args): whether all tensors among the arguments are on the same device.
PyObject* on_one_device(PyObject*, PyObject* const* args, Py_ssize_t n) {
  const at::Tensor* first = nullptr;
  for (Py_ssize_t i = 0; i < n; ++i) {
    if (THPVariable_Check(args[i])) {
      const at::Tensor& x = THPVariable_Unpack(args[i]);
      if (first != nullptr && x.device() != first->device()) {
        Py_RETURN_FALSE;
      }
      first = &x;
    }
  }
  Py_RETURN_TRUE;
}

enum Mode : long { kDirect, kGraph, kTransform };

// call_mode(*args): what a call with these arguments needs (call_mode.h).
PyObject* call_mode(PyObject*, PyObject* const* args, Py_ssize_t n) try {
  Mode mode = torchnotes::transforming() || torchnotes::is_recorded() ? kTransform : kDirect;
  for (Py_ssize_t i = 0; i < n && mode != kTransform; ++i) {
    if (!THPVariable_Check(args[i])) {
      continue;
    }
    const at::Tensor& x = THPVariable_Unpack(args[i]);
    if (torchnotes::is_dead(x) || torchnotes::is_batched(x)) {
      mode = kTransform;
    } else if (torchnotes::wants_graph(x)) {
      mode = kGraph;
    }
  }
  return PyLong_FromLong(mode);
} catch (const std::exception&) {
  return raised();
}

// check_in_place(x): raises if x must not be written.
PyObject* check_in_place(PyObject*, PyObject* x) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(THPVariable_Check(x), "expected a Tensor, got ", Py_TYPE(x)->tp_name);
  const at::Tensor& tensor = THPVariable_Unpack(x);
  torch::autograd::check_inplace(tensor, /*requires_grad=*/true);  // rejects leaves and their views
  at::assert_no_internal_overlap(tensor);
  torchnotes::check_writable(tensor);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

// is_watched(): whether a TorchFunctionMode must see the call.
PyObject* is_watched(PyObject*, PyObject*) { return PyBool_FromLong(torchnotes::is_watched()); }

// is_recorded(): whether the call must consist of torch's operations because it is recorded or functionalized.
PyObject* recorded(PyObject*, PyObject*) try {
  return PyBool_FromLong(torchnotes::is_recorded());
} catch (const std::exception&) {
  return raised();
}

// load_kernels(path): loads the library of kernels for the CPU.
PyObject* load_kernels(PyObject*, PyObject* path) {
  HANDLE_TH_ERRORS
  const char* const text = PyUnicode_AsUTF8(path);
  if (text == nullptr) {
    return nullptr;
  }
  torchnotes::load_kernels(text);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyCFunction fast(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef kFunctions[] = {
    {"load_kernels", load_kernels, METH_O, nullptr},
    {"dense_float", dense_float, METH_O, nullptr},
    {"fits_layer", fast(fits_layer), METH_FASTCALL, nullptr},
    {"batch_of", fast(batch_of), METH_FASTCALL, nullptr},
    {"on_one_device", fast(on_one_device), METH_FASTCALL, nullptr},
    {"is_watched", is_watched, METH_NOARGS, nullptr},
    {"is_recorded", recorded, METH_NOARGS, nullptr},
    {"check_in_place", check_in_place, METH_O, nullptr},
    {"call_mode", fast(call_mode), METH_FASTCALL, nullptr},
    {"collect_parameters", fast(torchnotes::collect_parameters), METH_FASTCALL, nullptr},
    {"norm_of_gradients", torchnotes::norm_of_gradients, METH_O, nullptr},
    {"update_parameters", fast(torchnotes::update_parameters), METH_FASTCALL, nullptr},
    {"differentiable", torchnotes::differentiable, METH_VARARGS, nullptr},
    {"filling", torchnotes::filling, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  if (PyModule_AddFunctions(m.ptr(), kFunctions) != 0) {
    throw pybind11::error_already_set();
  }
  m.attr("DIRECT") = long(kDirect);
  m.attr("GRAPH") = long(kGraph);
  m.attr("TRANSFORM") = long(kTransform);

  m.attr("activations") = pybind11::tuple(pybind11::cast(torchnotes::activation_names()));
  m.attr("version") = TORCHNOTES_VERSION;
  m.attr("torch_version") = TORCHNOTES_TORCH;
  m.attr("instruction_sets") = TORCHNOTES_INSTRUCTION_SETS;
  m.attr("cuda_architectures") = TORCHNOTES_CUDA_ARCHITECTURES;
#ifdef TORCHNOTES_WITH_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
#if defined(__clang__)
  m.attr("compiler") = "clang " __clang_version__;
#else
  m.attr("compiler") = "gcc " __VERSION__;
#endif
}
