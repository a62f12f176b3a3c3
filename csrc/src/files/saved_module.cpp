#include "files/saved_module.h"

#include <algorithm>
#include <array>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/import.h>

#include <it3/error_text.h>

#include "support/nearest_name.h"
#include "torchscript/named_tensors.h"

namespace it3::detail {
namespace {

/// Bit for bit, but that one NaN is as good as another.
bool are_equal(const at::Tensor& a, const at::Tensor& b) {
  const at::NoGradGuard no_grad;
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const at::Tensor on_cpu = a.detach().cpu(), other = b.detach().cpu();
  if (at::equal(on_cpu, other)) return true;
  const bool can_be_nan = a.is_floating_point() || a.is_complex();
  return can_be_nan && on_cpu.eq(other).logical_or(on_cpu.isnan().logical_and(other.isnan())).all().item<bool>();
}

/// Words of TorchScript's language.
constexpr std::array<std::string_view, 35> keywords = {
    "False", "None",     "True",  "and",    "as",   "assert", "async",  "await",    "break",
    "class", "continue", "def",   "del",    "elif", "else",   "except", "finally",  "for",
    "from",  "global",   "if",    "import", "in",   "is",     "lambda", "nonlocal", "not",
    "or",    "pass",     "raise", "return", "try",  "while",  "with",   "yield"};

bool is_plain(std::string_view name) {
  constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  const bool is_keyword = std::find(keywords.begin(), keywords.end(), name) != keywords.end();
  return !name.empty() && !is_keyword && name.find_first_not_of(plain) == std::string_view::npos;
}

/// The names in a module that a file may not hold, with quotes.
std::vector<std::string> doubtful_names(const torch::jit::Module& module) {
  std::vector<std::string> names;
  for (const auto& submodule : module.named_modules()) {
    const auto type = submodule.value.type();
    for (std::size_t i = 0; i < type->numAttributes(); ++i) {
      const std::string& name = type->getAttributeName(i);
      if (!is_plain(name)) names.push_back("'" + (submodule.name.empty() ? name : submodule.name + "." + name) + "'");
    }
  }
  return names;
}

/// What is wrong with an archive, a path or a stream; empty if it holds the module.
template <typename Archive>
std::string fault_of(Archive& archive, const torch::jit::Module& module, const torch::jit::ExtraFilesMap& extra) {
  torch::jit::ExtraFilesMap read;
  for (const auto& [name, content] : extra) read[name] = "";
  torch::jit::Module copy("unread");
  try {
    copy = torch::jit::load(archive, c10::kCPU, read);
  } catch (const std::exception& error) {
    return error_text(error);
  }
  if (read != extra) return "its extra files differ";
  const auto written = named_tensors(module), found = named_tensors(copy);
  if (written.size() != found.size()) return "it has another number of parameters and buffers";
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written[i].first != found[i].first) return "'" + written[i].first + "' became '" + found[i].first + "'";
    if (!are_equal(written[i].second, found[i].second)) return "'" + written[i].first + "' has other values";
  }
  return "";
}

template <typename Archive>
void check(Archive& archive, const torch::jit::Module& module, const torch::jit::ExtraFilesMap& extra) {
  const std::string fault = fault_of(archive, module, extra);
  if (fault.empty()) return;
  const auto names = doubtful_names(module);
  TORCH_CHECK_VALUE(
      names.empty(), "the model cannot be saved: a TorchScript file does not hold the name",
      names.size() > 1 ? "s " : " ", join(names),
      ". Names of layers, parameters and buffers have to be made of the letters a to z and A to Z, digits and _, and "
      "be "
      "no keywords of Python: rename them");
  TORCH_CHECK_VALUE(false, "the model cannot be saved: when the file is read back, ", fault);
}

}  // namespace

std::string archive_of(const torch::jit::Module& module) {
  std::stringstream stream;
  module.save(stream);
  check(stream, module, {});
  return stream.str();
}

void save_module(const torch::jit::Module& module, NewFile& file, const torch::jit::ExtraFilesMap& extra) {
  file.write_by([&](std::ostream& stream) { module.save(stream, extra); });
  file.flush();
  check(file.partial(), module, extra);
}

}  // namespace it3::detail
