#include "python_parts.h"

#include <utility>

#include <c10/util/Exception.h>

namespace it3::python {
namespace {

/// Never destroyed, as Python may have ended by then.
PythonParts*& known() {
  static PythonParts* parts = nullptr;
  return parts;
}

}  // namespace

const PythonParts& python_parts() {
  TORCH_CHECK(known() != nullptr, "it3._C is used without the package it3; import it3");
  return *known();
}

void use_python_parts(PythonParts parts) { known() = new PythonParts(std::move(parts)); }

}  // namespace it3::python
