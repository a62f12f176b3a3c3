#pragma once

#include <cstdint>

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// An object as it was seen. It is held, so that no other one can be at its address.
struct Fact {
  /// @param seen  may be null, for nothing
  /// @param with_version  whether a tensor's values count, by its version
  Fact(py::handle seen, bool with_version);

  /// Whether another object is as good: the same one, or a number or text that is equal.
  bool equals(py::handle now, bool with_version) const;

  py::object object;
  bool is_tensor;
  std::int64_t detail = 0;  // of a tensor
};

}  // namespace it3::python
