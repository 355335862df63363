#pragma once

#include <Python.h>

namespace torchnotes {

// torchnotes._C.filling: see random.cpp.
PyObject* filling(PyObject* module, PyObject* name);

}  // namespace torchnotes
