#pragma once

#include <string>
#include <unordered_set>
#include <vector>

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "module_tree.h"

namespace it3::python {

/// The parameters of a torch.nn.Module, those that are no floating-point numbers too, except for some.
inline std::vector<at::Tensor> every_parameter(py::handle model, const std::vector<NamedParameter>& except = {}) {
  std::unordered_set<at::TensorImpl*> seen;
  for (const NamedParameter& p : except) seen.insert(p.tensor.unsafeGetTensorImpl());
  std::vector<at::Tensor> found;
  for_each_module(model, [&](const std::string&, py::handle module) {
    const py::object parameters = module.attr("_parameters");
    if (!PyDict_Check(parameters.ptr())) return;  // of TorchScript, which Python's forward() does not write to
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(parameters)) {
      if (!THPVariable_Check(value.ptr())) continue;
      const at::Tensor& tensor = THPVariable_Unpack(value.ptr());
      if (seen.insert(tensor.unsafeGetTensorImpl()).second) found.push_back(tensor);
    }
  });
  return found;
}

}  // namespace it3::python
