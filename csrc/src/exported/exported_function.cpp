#include <it3/backend/exported_function.h>

#include <c10/util/Exception.h>

#include "exported/exported_module.h"
#include "exported/exported_sizes.h"

namespace it3 {
namespace {

torch::jit::Module module_of(const ExportedGraph& program) {
  const std::size_t count = program.inputs.size();
  TORCH_CHECK_VALUE(
      count == 1 || count == 2, "the exported program takes ", count,
      " tensors; a function of an engine takes one or two");
  return detail::script_module_of(program, "");
}

}  // namespace

ExportedFunction::ExportedFunction(const ExportedGraph& program)
    : function_(module_of(program)),
      sizes_(detail::size_conditions_of(program)),
      takes_both_(program.inputs.size() == 2) {}

at::Tensor ExportedFunction::operator()(const at::Tensor& a, const at::Tensor& b) const {
  torch::jit::Stack arguments = {a};
  if (takes_both_) arguments.emplace_back(b);
  sizes_->check(arguments);
  return function_(a, b);
}

}  // namespace it3
