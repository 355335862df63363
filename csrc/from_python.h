// Arguments of operators, from Python.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/python_numbers.h>

#include <string>
#include <vector>

namespace torchnotes {

inline std::string wrong_type(
    const std::string& name, const c10::Argument& argument, const char* expected, PyObject* value
) {
  return name + ": the " + argument.name() + " must be " + expected + ", not " + Py_TYPE(value)->tp_name;
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
      return THPVariable_Unpack(value);
    case c10::TypeKind::FloatType:
      TORCH_CHECK_TYPE(THPUtils_checkDouble(value), wrong_type(name, argument, "a float", value));
      return THPUtils_unpackDouble(value);
    case c10::TypeKind::BoolType:
      return value == Py_True;
    case c10::TypeKind::ListType:
      return type->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::IntType
                 ? c10::IValue(pybind11::cast<std::vector<int64_t>>(pybind11::handle(value)))
                 : c10::IValue(pybind11::cast<std::vector<double>>(pybind11::handle(value)));
    default:
      TORCH_CHECK_TYPE(THPUtils_checkLong(value), wrong_type(name, argument, "an int", value));
      return static_cast<int64_t>(THPUtils_unpackLong(value));
  }
}

}  // namespace torchnotes
