#pragma once

#include <Python.h>

namespace torchnotes {

// torchnotes._C.activation: see activation.cpp.
PyObject* activation(PyObject* module, PyObject* args);

}  // namespace torchnotes
