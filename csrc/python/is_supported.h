// Which tensors our kernels support.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/python_variable.h>

namespace torchnotes {

inline bool is_dense(const at::Tensor& x) { return x.layout() == at::kStrided && !x.is_nested(); }

inline bool is_supported_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
}

// Whether x is a tensor or a parameter, not a third-party subclass.
inline bool is_plain_tensor(PyObject* x) {
  return THPVariable_CheckExact(x) || Py_TYPE(x) == reinterpret_cast<PyTypeObject*>(ParameterClass);
}

}  // namespace torchnotes
