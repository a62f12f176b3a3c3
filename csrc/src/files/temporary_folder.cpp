#include "files/temporary_folder.h"

#include <ftw.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <system_error>

#include <c10/util/Exception.h>

namespace it3::detail {

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "it3-XXXXXX").string();
  TORCH_CHECK(
      mkdtemp(name.data()) != nullptr, "cannot create the temporary folder ", name, ": ",
      std::generic_category().message(errno),
      "; set the environment variable TMPDIR to a folder that can be written to");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  // Not by std::filesystem::remove_all(): torch 2.11 for CUDA exports one of its own, which crashes.
  const auto remove = [](const char* path, const struct stat*, int, struct FTW*) {
    std::remove(path);
    return 0;
  };
  nftw(path_.c_str(), remove, /*nopenfd=*/4, FTW_DEPTH | FTW_PHYS);
}

}  // namespace it3::detail
