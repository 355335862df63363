// Converts the arguments of operators from Python. Every call into Python is checked
// (docs/decisions/python-from-cpp.md).
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/python_numbers.h>
#include <torch/csrc/utils/tensor_numpy.h>

#include <string>
#include <vector>

#include "python/call_mode.h"

namespace torchnotes {

inline std::string wrong_type(
    const std::string& name, const c10::Argument& argument, const char* expected, PyObject* value
) {
  return name + ": the " + argument.name() + " must be " + expected + ", not " + Py_TYPE(value)->tp_name;
}

template <class T>
std::vector<T> list_from_python(
    PyObject* value, const c10::Argument& argument, const std::string& name, const char* expected
) {
  try {
    return pybind11::cast<std::vector<T>>(pybind11::handle(value));
  } catch (const pybind11::cast_error&) {
    TORCH_CHECK_TYPE(false, wrong_type(name, argument, expected, value));
  }
}

// The default of an omitted argument.
inline const c10::IValue& default_of(const c10::Argument& argument, const std::string& name) {
  TORCH_CHECK_TYPE(argument.default_value(), name, ": missing argument ", argument.name());
  return *argument.default_value();
}

// Takes over a new reference from the Python API, or throws if the call has raised.
inline pybind11::object checked(PyObject* result) {
  if (result == nullptr) {
    throw pybind11::error_already_set();
  }
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

inline const char* text_of(PyObject* string) {
  const char* const text = PyUnicode_AsUTF8(string);
  if (text == nullptr) {
    throw pybind11::error_already_set();
  }
  return text;
}

// Also accepts NumPy numbers and 0-d tensors, as torch does.
inline double double_from_python(PyObject* value, const c10::Argument& argument, const std::string& name) {
  if (THPUtils_checkDouble(value)) {
    return THPUtils_unpackDouble(value);
  }
  const bool tensor = THPVariable_Check(value);
  const bool number = tensor ? THPVariable_Unpack(value).dim() == 0 && !THPVariable_Unpack(value).requires_grad()
                             : torch::utils::is_numpy_scalar(value);
  TORCH_CHECK_TYPE(number, wrong_type(name, argument, "a float", value));
  return PyFloat_AS_DOUBLE(checked(PyNumber_Float(value)).ptr());
}

inline int64_t int_from_python(PyObject* value, const c10::Argument& argument, const std::string& name) {
  if (THPUtils_checkLong(value)) {
    return THPUtils_unpackLong(value);
  }
  TORCH_CHECK_TYPE(PyIndex_Check(value) && !PyBool_Check(value), wrong_type(name, argument, "an int", value));
  return THPUtils_unpackLong(checked(PyNumber_Index(value)).ptr());
}

inline c10::IValue from_python(PyObject* value, const c10::Argument& argument, const std::string& name) {
  const bool optional = argument.type()->kind() == c10::TypeKind::OptionalType;
  if (optional && value == Py_None) {
    return {};
  }
  const auto& type = optional ? argument.type()->castRaw<c10::OptionalType>()->getElementType() : argument.type();
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      TORCH_CHECK_TYPE(THPVariable_Check(value), wrong_type(name, argument, "a Tensor", value));
      return unwrapped(THPVariable_Unpack(value));
    case c10::TypeKind::FloatType:
      return double_from_python(value, argument, name);
    case c10::TypeKind::BoolType:
      TORCH_CHECK_TYPE(PyBool_Check(value), wrong_type(name, argument, "a bool", value));
      return value == Py_True;
    case c10::TypeKind::ListType:
      return type->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::IntType
                 ? c10::IValue(list_from_python<int64_t>(value, argument, name, "a list of int"))
                 : c10::IValue(list_from_python<double>(value, argument, name, "a list of float"));
    default:
      return int_from_python(value, argument, name);
  }
}

}  // namespace torchnotes
