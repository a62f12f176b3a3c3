#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace it3::apps {

/// What the header of a .npy file says.
struct NpyHeader {
  /// The type of the elements as NumPy writes it, such as "<f4"; "[...]" for structured arrays.
  std::string descr;
  bool is_fortran = false;
  std::vector<std::int64_t> shape;
};

/// Reads the text of a header, a dictionary as Python writes it. Raises c10::ValueError if it is none.
NpyHeader parse_npy_header(std::string_view text);

/// The text of a header.
std::string to_text(const NpyHeader& header);

}  // namespace it3::apps
