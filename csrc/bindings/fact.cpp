#include "fact.h"

#include <bit>
#include <cstdint>

#include <c10/util/hash.h>
#include <torch/csrc/autograd/python_variable.h>

#include "support/write_count.h"

namespace it3::python {
namespace {

bool is_scalar(py::handle object) {
  PyObject* const o = object.ptr();
  return PyBool_Check(o) || PyLong_CheckExact(o) || PyFloat_CheckExact(o) || PyUnicode_CheckExact(o) ||
         PyBytes_CheckExact(o) || PyComplex_CheckExact(o);
}

/// What code that runs in Python while tracing can ask of a tensor, beside its values.
std::uint64_t kind_of(const at::Tensor& t) {
  constexpr std::uint64_t many = 65536;
  const auto number = [](auto value) { return static_cast<std::uint64_t>(value); };
  std::uint64_t kind = (number(t.scalar_type()) * many + number(t.device().type())) * many + number(t.device().index());
  if (!t.is_nested()) {
    for (const std::int64_t size : t.sizes()) kind = c10::hash_combine(kind, static_cast<std::uint64_t>(size));
  }
  return kind;
}

std::int64_t detail_of(py::handle object, bool with_version) {
  const at::Tensor& tensor = THPVariable_Unpack(object.ptr());
  const auto version = static_cast<std::uint64_t>(with_version ? it3::detail::version_of(tensor) : 0);
  return static_cast<std::int64_t>(kind_of(tensor) + version);
}

}  // namespace

Fact::Fact(py::handle seen, bool with_version)
    : object(py::reinterpret_borrow<py::object>(seen)), is_tensor(seen && THPVariable_Check(seen.ptr())) {
  if (is_tensor) detail = detail_of(seen, with_version);
}

bool Fact::equals(py::handle now, bool with_version) const {
  if (object.is(now)) return !is_tensor || detail == detail_of(now, with_version);
  if (Py_TYPE(object.ptr()) != Py_TYPE(now.ptr()) || !is_scalar(object)) return false;
  if (PyFloat_CheckExact(now.ptr())) {  // bit for bit: 0.0 == -0.0, and nan is not nan
    const double a = PyFloat_AS_DOUBLE(object.ptr()), b = PyFloat_AS_DOUBLE(now.ptr());
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
  }
  return PyObject_RichCompareBool(object.ptr(), now.ptr(), Py_EQ) == 1;
}

}  // namespace it3::python
