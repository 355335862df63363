// Which tensors our kernels support.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/python_variable.h>

#include "python/call_mode.h"

namespace torchnotes {

inline bool is_dense(const at::Tensor& x) { return x.layout() == at::kStrided && !x.is_nested(); }

inline bool is_supported_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
}

// Whether x is a tensor or a parameter, not a third-party subclass.
inline bool is_plain_tensor(PyObject* x) {
  return THPVariable_CheckExact(x) || Py_TYPE(x) == reinterpret_cast<PyTypeObject*>(ParameterClass);
}

// Whether our kernels support a tensor in this call.
inline bool is_supported(PyObject* object) {
  if (!is_plain_tensor(object) || is_watched() || is_recorded()) {
    return false;
  }
  const at::Tensor& x = THPVariable_Unpack(object);
  return is_supported_dtype(x.scalar_type()) && is_dense(x) && (x.is_cpu() || x.is_cuda() || x.is_meta());
}

}  // namespace torchnotes
