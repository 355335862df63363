// torchnotes._C: what Python asks of C++. How this torchnotes was built; the call of differentiable operators
// (differentiable.cpp); and two questions of every call, which in Python would cost more than the kernel does on a
// small tensor. Importing it also registers the schemas (schemas.cpp).
#include <ATen/MemoryOverlap.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/python_variable.h>

#include "call_mode.h"
#include "differentiable.h"

#ifndef TORCHNOTES_CUDA_ARCHITECTURES
#define TORCHNOTES_CUDA_ARCHITECTURES ""
#endif

namespace {

bool is_dense_float(const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  const auto device = x.device().type();
  return (dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf) &&
         (device == at::kCPU || device == at::kCUDA || device == at::kMeta) && x.layout() == at::kStrided &&
         !x.is_nested();
}

// dense_float(x): whether x is a plain tensor (no subclass) that our kernels take.
PyObject* dense_float(PyObject*, PyObject* x) {
  const bool plain = THPVariable_CheckExact(x) || Py_TYPE(x) == reinterpret_cast<PyTypeObject*>(ParameterClass);
  return PyBool_FromLong(plain && is_dense_float(THPVariable_Unpack(x)));
}

enum Mode : long { kDirect, kGraph, kTransform };

// call_mode(*args): what a call with these arguments needs (call_mode.h).
PyObject* call_mode(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Mode mode = torchnotes::transforming() ? kTransform : kDirect;
  for (Py_ssize_t i = 0; i < n && mode == kDirect; ++i) {
    if (THPVariable_Check(args[i]) && torchnotes::wants_graph(THPVariable_Unpack(args[i]))) {
      mode = kGraph;
    }
  }
  return PyLong_FromLong(mode);
}

// check_in_place(x): raises where x must not be written over.
PyObject* check_in_place(PyObject*, PyObject* x) {
  HANDLE_TH_ERRORS
  const at::Tensor& tensor = THPVariable_Unpack(x);
  torch::autograd::check_inplace(tensor, /*requires_grad=*/true);  // refuses leaves and their views
  at::assert_no_internal_overlap(tensor);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyMethodDef kFunctions[] = {
    {"dense_float", dense_float, METH_O, nullptr},
    {"check_in_place", check_in_place, METH_O, nullptr},
    {"call_mode", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_mode)), METH_FASTCALL, nullptr},
    {"differentiable", torchnotes::differentiable, METH_VARARGS, nullptr},
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
