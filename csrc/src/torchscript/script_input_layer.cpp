#include <it3/script_input_layer.h>

#include <cmath>
#include <exception>
#include <iomanip>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <c10/util/Exception.h>

#include <it3/error_text.h>

#include "support/nearest_name.h"

namespace it3 {
namespace {

/// A number as TorchScript reads it: of repr(), some are whole numbers, and others names.
bool write_number(std::ostream& text, const c10::IValue& value) {
  if (!value.isDouble()) return false;
  const double number = value.toDouble();
  if (std::isfinite(number)) {
    text << std::scientific << std::setprecision(std::numeric_limits<double>::max_digits10) << number;
  } else {
    text << "float('" << number << "')";
  }
  return true;
}

/// As forward() is declared with it: "x: Tensor", "scale: Optional[float] = None".
std::string declaration_of(const c10::Argument& argument) {
  std::ostringstream text;
  text << argument.name() << ": " << argument.type()->annotation_str();
  if (argument.default_value()) {
    text << " = ";
    argument.default_value()->repr(text, write_number);
  }
  return text.str();
}

std::string code_of_layer(std::int64_t extra_channels, std::int64_t channel_dim) {
  if (extra_channels == 0) return "def forward(self, x: Tensor):\n  return x.view_as(x)\n";
  return c10::str(
      "def forward(self, x: Tensor):\n  sizes = x.size()\n  sizes[", channel_dim, "] = ", extra_channels,
      "\n  return torch.cat([x, x.new_zeros(sizes)], ", channel_dim, ")\n");
}

torch::jit::Module module_of_class(const char* name, const std::shared_ptr<torch::jit::CompilationUnit>& unit) {
  torch::jit::Module module(c10::str("__torch__.", name), unit, /*shouldMangle=*/true);
  module.register_attribute("training", c10::BoolType::get(), false);
  return module;
}

}  // namespace

torch::jit::Module with_input_layer(
    const torch::jit::Module& module, std::int64_t extra_channels, std::int64_t channel_dim, std::int64_t argument) {
  TORCH_CHECK_VALUE(extra_channels >= 0, "extra_channels must be a whole number, 0 or more, not ", extra_channels);
  const c10::FunctionSchema schema = module.get_method("forward").function().getSchema();
  std::vector<std::string> declared, given;
  for (std::size_t i = 1; i < schema.arguments().size(); ++i) {  // behind self
    const c10::Argument& each = schema.arguments()[i];
    const bool is_first_keyword = each.kwarg_only() && !schema.arguments()[i - 1].kwarg_only();
    declared.push_back((is_first_keyword ? "*, " : "") + declaration_of(each));
    given.push_back((each.kwarg_only() ? each.name() + "=" : "") + each.name());
  }
  const auto place = static_cast<std::size_t>(argument);
  const bool is_there = argument >= 0 && place < given.size();
  TORCH_CHECK_VALUE(
      is_there && schema.arguments()[place + 1].type()->isSubtypeOf(*c10::TensorType::get()),
      "the input layer takes argument ", argument, " of forward(), which must be a tensor; forward() takes ",
      detail::join(declared));
  const std::string name = schema.arguments()[place + 1].name();
  given[place].replace(given[place].size() - name.size(), name.size(), "self.input.forward(" + name + ")");

  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module layer = module_of_class("InputLayer", unit);
  layer.define(code_of_layer(extra_channels, channel_dim));
  torch::jit::Module around = module_of_class("WithInputLayer", unit);
  around.register_module("input", layer);
  around.register_module("model", module);
  const std::string code = c10::str(
      "def forward(self, ", detail::join(declared), "):\n  return self.model.forward(", detail::join(given), ")\n");
  try {
    around.define(code);
  } catch (const std::exception& error) {
    TORCH_CHECK_VALUE(
        false, "the input layer cannot be put before a forward() that takes ", detail::join(declared), ": ",
        error_text(error), "; wrap the model in one that takes tensors, numbers and lists of them");
  }
  // The modules in the model keep the modes that they are in.
  const bool is_training = module.hasattr("training") && module.is_training();
  for (torch::jit::Module* const own : {&layer, &around}) own->setattr("training", is_training);
  return around;
}

}  // namespace it3
