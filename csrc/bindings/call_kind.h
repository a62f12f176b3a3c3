#pragma once

#include <string>
#include <vector>

#include <torch/csrc/utils/pybind.h>

namespace it3::python {

/// Collects the tensors in inputs, in the order of torch's pytree, and tells everything but their sizes and values by a
/// text. False if there is something of another kind.
bool flatten(py::handle object, std::vector<c10::IValue>& tensors, std::string& others);

/// Whether code could tell by `q is k` that two inputs are one, which a program does not see.
bool has_same_twice(const std::vector<c10::IValue>& tensors);

}  // namespace it3::python
