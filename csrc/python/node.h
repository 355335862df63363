#pragma once

#include <Python.h>

namespace torchnotes {

// torchnotes._C.differentiable: see node.cpp.
PyObject* differentiable(PyObject* module, PyObject* args);

}  // namespace torchnotes
