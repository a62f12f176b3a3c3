#include "files/temporary_folder.h"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

#include <c10/util/Exception.h>

namespace it3::detail {

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "it3-XXXXXX").string();
  TORCH_CHECK(
      mkdtemp(name.data()) != nullptr, "no temporary folder can be made as ", name, ": ",
      std::generic_category().message(errno), "; the environment variable TMPDIR says where they are made");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace it3::detail
