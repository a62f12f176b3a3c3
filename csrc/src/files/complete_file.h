#pragma once

#include <filesystem>
#include <string>
#include <system_error>

namespace it3::detail {

/// Has `write` write a file beside its place, and moves it there when it is complete. If anything throws, nothing is
/// left beside, and what was there before is untouched.
template <typename Write>
void complete_file(const std::string& path, const Write& write) {
  const std::string partial = path + ".partial";
  try {
    write(partial);
    std::filesystem::rename(partial, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(partial, ignored);
    throw;
  }
}

}  // namespace it3::detail
