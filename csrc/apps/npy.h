#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include "files/new_file.h"

// NumPy's format of one array in a file, versions 1 to 3:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. Parts are read and written by themselves, so
// that arrays may be larger than memory.

namespace it3::apps {

/// An array in a .npy file. Errors are c10::Error, and name the file.
class NpyReader {
 public:
  /// Reads what the array is like. Raises if that is damaged, or does not fit the file's size, and for elements that
  /// torch has no type for. Integers of 16 and 32 bits without sign are read as ones of 32 and 64 with it.
  explicit NpyReader(const std::string& path);

  const std::vector<std::int64_t>& shape() const { return shape_; }

  /// The part of it from `begin` to `end` along a dimension; all of an array without dimensions.
  at::Tensor read(std::int64_t dim, std::int64_t begin, std::int64_t end);
  at::Tensor read();

 private:
  std::string path_;
  std::unique_ptr<std::istream> file_;
  std::vector<std::int64_t> shape_;
  bool is_fortran_ = false;
  std::string descr_;      // as NumPy has it: "<f4"
  std::int64_t data_ = 0;  // the byte that the elements begin at
};

/// An array that is written into a .npy file in parts. Raises c10::Error, naming the file.
class NpyWriter {
 public:
  /// Half precision is written as float32. Raises for other types that NumPy does not have.
  NpyWriter(detail::NewFile& file, c10::ScalarType dtype, std::vector<std::int64_t> shape);

  c10::ScalarType dtype() const { return dtype_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }

  /// Fills the array from `begin` on along a dimension; all of it, if it has none.
  void write(const at::Tensor& part, std::int64_t dim, std::int64_t begin);

 private:
  detail::NewFile& file_;
  c10::ScalarType dtype_;
  std::vector<std::int64_t> shape_;
  std::int64_t data_ = 0;
};

}  // namespace it3::apps
