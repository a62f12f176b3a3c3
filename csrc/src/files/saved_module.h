#pragma once

#include <string>

#include <torch/csrc/jit/api/module.h>

namespace it3::detail {

/// A module as an archive, which has been read back. Raises c10::ValueError if it is another one then.
std::string archive_of(const torch::jit::Module& module);

}  // namespace it3::detail
