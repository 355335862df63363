#pragma once

#include <Python.h>

namespace torchnotes {

// torchnotes._C.gather, call_on and update: see gather.cpp.
PyObject* gather(PyObject* module, PyObject* const* args, Py_ssize_t n);
PyObject* call_on(PyObject* module, PyObject* const* args, Py_ssize_t n);
PyObject* update(PyObject* module, PyObject* const* args, Py_ssize_t n);

}  // namespace torchnotes
