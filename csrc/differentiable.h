#pragma once

#include <Python.h>

namespace torchnotes {

// torchnotes._C.differentiable: see differentiable.cpp.
PyObject* differentiable(PyObject* module, PyObject* args);

}  // namespace torchnotes
