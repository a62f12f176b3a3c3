#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>

#include <c10/util/Exception.h>

namespace it3::detail {

/// A file to read. Raises c10::Error, naming it, if there is none, or if it is a folder or cannot be read.
inline std::unique_ptr<std::istream> open_file(const std::string& path) {
  std::error_code ignored;
  TORCH_CHECK(std::filesystem::exists(path, ignored), "there is no file ", path);
  TORCH_CHECK(!std::filesystem::is_directory(path, ignored), path, " is a folder; give the name of a file");
  auto file = std::make_unique<std::ifstream>(path, std::ios::binary);
  TORCH_CHECK(file->good(), path, " cannot be read; see its permissions");
  return file;
}

}  // namespace it3::detail
