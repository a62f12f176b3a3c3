#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace it3::apps {

/// Whether a file's name ends in .npy or .pt. Raises c10::ValueError, naming the file, for another one.
void check_extension(const std::string& path);

/// Reads a tensor from a .npy file (booleans, integers, float32, float64; any memory order), or what torch.save wrote
/// into a .pt file. Raises c10::Error, naming the file, if it is missing, damaged or of another kind.
c10::IValue read_file(const std::string& path);

/// A tensor in a file that appears under its name when commit() has been called.
class TensorFile {
 public:
  /// Writes the data. Raises c10::Error, naming the file, if that fails.
  TensorFile(std::string path, const at::Tensor& tensor);
  ~TensorFile();
  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  void commit();

 private:
  std::string path_;
  std::string partial_;
};

}  // namespace it3::apps
