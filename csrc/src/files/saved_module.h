#pragma once

#include <string>

#include <torch/csrc/jit/api/module.h>

#include <it3/backend/export.h>

#include "files/new_file.h"

namespace it3::detail {

/// A module as an archive, which has been read back. Raises c10::ValueError if it is another one then.
std::string archive_of(const torch::jit::Module& module);

/// Writes a module as plain TorchScript. The file appears under its name when the caller commits it.
///
/// Raises c10::Error if it cannot be written, and c10::ValueError if it is another one when it is read back, as
/// TorchScript's files do not hold every name.
IT3_API void save_module(const torch::jit::Module& module, NewFile& file, const torch::jit::ExtraFilesMap& extra = {});

}  // namespace it3::detail
