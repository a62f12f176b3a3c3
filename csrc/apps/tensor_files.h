#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "files/new_file.h"
#include "npy.h"

namespace it3::apps {

/// Whether a file's name ends in .npy or .pt. Raises c10::ValueError, naming the file, for another one.
void check_extension(const std::string& path);
bool is_npy(const std::string& path);

/// Reads what torch.save wrote into a .pt file. Raises c10::Error, naming the file, if it is missing, damaged or of
/// another kind.
c10::IValue read_pt(const std::string& path);

/// A tensor in a file, which is written in parts, one batch after the other, and appears under its name when commit()
/// has been called. A .pt file, but not a .npy file, needs memory for all of it. Raises c10::Error, naming the file.
class TensorFile {
 public:
  /// Raises if nothing can be written there.
  /// @param kept_as  see detail::NewFile
  TensorFile(const std::string& path, const std::string& kept_as) : file_(path, kept_as) {}

  /// What has been added, as a dictionary: a .npy file's parts lie on the disk, a .pt file's are in it.
  c10::IValue progress();

  /// Goes on from there, in a file that was kept. Raises if it is not as it was then.
  void go_on_from(const c10::IValue& progress);

  /// The next part. Parts lie behind one another along a dimension.
  /// @param share  how many of the whole's samples it comes from; a .npy file has to be as long in proportion
  void add(const at::Tensor& part, std::int64_t dim, std::pair<std::int64_t, std::int64_t> share);

  /// Writes what is not written yet, so that commit() of several files fails for all or none.
  void finish();

  void commit() { file_.commit(); }

  /// After an earlier process had finished: commits what that one has not committed. Raises if it is gone.
  void commit_what_is_left();

 private:
  /// Of a .pt file.
  at::Tensor all_parts();

  detail::NewFile file_;
  std::optional<NpyWriter> npy_;
  std::vector<at::Tensor> parts_;               // of a .pt file
  std::int64_t dim_ = 0, done_ = 0, size_ = 0;  // along dim_: what is written, and of the whole
};

}  // namespace it3::apps
