#pragma once

#include <Python.h>

namespace torchnotes {

// Functions of torchnotes._C: see optimizers.cpp.
PyObject* collect_parameters(PyObject* module, PyObject* const* args, Py_ssize_t n);
PyObject* norm_of_gradients(PyObject* module, PyObject* bundle);
PyObject* update_parameters(PyObject* module, PyObject* const* args, Py_ssize_t n);

}  // namespace torchnotes
