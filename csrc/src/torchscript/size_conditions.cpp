#include "torchscript/size_conditions.h"

#include <utility>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/api/include/torch/jit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <it3/error_text.h>

#include "support/nearest_name.h"
#include "torchscript/run_code.h"

namespace it3::detail {
namespace {

constexpr std::size_t most_known = 64;

// What sympy, which torch.export's conditions are written by, calls its functions.
constexpr const char* functions = R"(
def Add(a: int, b: int) -> int:
  return a + b
def Mul(a: int, b: int) -> int:
  return a * b
def FloorDiv(a: int, b: int) -> int:
  return a // b
def Mod(a: int, b: int) -> int:
  return a % b
def Max(a: int, b: int) -> int:
  return max(a, b)
def Min(a: int, b: int) -> int:
  return min(a, b)
)";

torch::jit::Code compiled(const std::vector<std::string>& conditions, const std::vector<std::size_t>& dims) {
  std::string parameters, body = "True";
  for (std::size_t input = 0; input < dims.size(); ++input) {
    for (std::size_t dim = 0; dim < dims[input]; ++dim) {
      parameters += c10::str(parameters.empty() ? "" : ", ", "size_", input, "_", dim, ": int");
    }
  }
  for (const std::string& condition : conditions) body += " and (" + condition + ")";
  try {
    const auto unit =
        torch::jit::compile(c10::str(functions, "def hold(", parameters, ") -> bool:\n  return ", body, "\n"));
    const auto graph = torch::jit::toGraphFunction(unit->get_function("hold")).graph()->copy();
    torch::jit::Inline(*graph);
    return torch::jit::Code(graph, "it3_sizes");
  } catch (const std::exception& error) {
    const std::string first = error_text(error);
    TORCH_CHECK_VALUE(false, "conditions on the sizes of inputs cannot be read: ", join(conditions), ": ", first);
  }
}

}  // namespace

SizeConditions::SizeConditions(std::vector<std::string> conditions, std::vector<std::size_t> dims)
    : conditions_(std::move(conditions)), dims_(std::move(dims)), code_(compiled(conditions_, dims_)) {}

bool SizeConditions::have_its_dims(const torch::jit::Stack& arguments) const {
  if (arguments.size() != dims_.size()) return false;
  for (std::size_t i = 0; i < dims_.size(); ++i) {
    const bool has_dims =
        arguments[i].isTensor() && arguments[i].toTensor().dim() == static_cast<std::int64_t>(dims_[i]);
    if (!has_dims) return false;
  }
  return true;
}

bool SizeConditions::hold_for(const torch::jit::Stack& arguments) const {
  if (!have_its_dims(arguments)) return false;
  std::vector<std::int64_t> sizes;
  for (const c10::IValue& argument : arguments) {
    const at::IntArrayRef of_argument = argument.toTensor().sizes();
    sizes.insert(sizes.end(), of_argument.begin(), of_argument.end());
  }
  {
    const std::scoped_lock lock(mutex_);
    if (known_.contains(sizes)) return true;
  }
  torch::jit::Stack stack(sizes.begin(), sizes.end());
  run_code(code_, stack);
  const bool holds = stack.at(0).toBool();
  const std::scoped_lock lock(mutex_);
  if (holds && known_.size() < most_known) known_.insert(std::move(sizes));
  return holds;
}

void SizeConditions::check(const torch::jit::Stack& arguments) const {
  if (hold_for(arguments)) return;
  std::string given;
  for (const c10::IValue& argument : arguments) {
    given += given.empty() ? "" : ", ";
    given += argument.isTensor() ? c10::str(argument.toTensor().sizes()) : argument.tagKind();
  }
  TORCH_CHECK_VALUE(
      false, "the exported program is not for inputs of these sizes: ", given, ". It was exported for ", dims_.size(),
      " tensors of ", dims_, " dimensions where ", conditions_.empty() ? "any size will do" : join(conditions_),
      "; size_0_1 is size 1 of the first. Export it with dynamic_shapes that allow these sizes");
}

}  // namespace it3::detail
