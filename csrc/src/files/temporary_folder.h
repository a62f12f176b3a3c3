#pragma once

#include <filesystem>

namespace it3::detail {

/// A new, empty folder that nobody else may read, among the system's temporary files; it is removed with all that is in
/// it.
class TemporaryFolder {
 public:
  /// Raises c10::Error, with the system's reason, if none can be made.
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace it3::detail
