#pragma once

#include <cstdint>
#include <istream>
#include <map>
#include <string>

namespace it3::detail {

/// The checksums (CRC-32) of a zip file's records, by name, as the directory at its end lists them. Zip64 too.
/// Folders are left out. Raises c10::ValueError if the directory is damaged, or lists a name twice.
std::map<std::string, std::uint32_t> checksums_in_zip(std::istream& file);

}  // namespace it3::detail
