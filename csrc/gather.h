#pragma once

#include <Python.h>

namespace torchnotes {

// torchnotes._C.gather and torchnotes._C.call_on: see gather.cpp.
PyObject* gather(PyObject* module, PyObject* const* args, Py_ssize_t n);
PyObject* call_on(PyObject* module, PyObject* const* args, Py_ssize_t n);

}  // namespace torchnotes
