#include "files/zip_directory.h"

#include <algorithm>
#include <string_view>

#include <c10/util/Exception.h>

// Numbers of sections and fields as in PKWARE's APPNOTE.TXT, "ZIP File Format Specification".

namespace it3::detail {
namespace {

constexpr const char* no_directory = "it has no directory at its end, so it is cut off, or no archive";
constexpr const char* bad_directory = "its directory is damaged";

/// A number at some bytes, little-endian.
template <typename Number>
Number number_at(std::string_view bytes, std::size_t offset) {
  TORCH_CHECK_VALUE(offset <= bytes.size() && bytes.size() - offset >= sizeof(Number), bad_directory);
  std::uint64_t number = 0;
  for (std::size_t i = sizeof(Number); i > 0; --i) {
    number = number << 8U | static_cast<std::uint8_t>(bytes[offset + i - 1]);
  }
  return static_cast<Number>(number);
}

std::string bytes_of(std::istream& file, std::uint64_t offset, std::uint64_t count, std::uint64_t size) {
  TORCH_CHECK_VALUE(offset <= size && count <= size - offset, bad_directory);
  std::string bytes(count, '\0');
  file.clear();
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(bytes.data(), static_cast<std::streamsize>(count));
  TORCH_CHECK_VALUE(file.gcount() == static_cast<std::streamsize>(count), "it cannot be read to its end");
  return bytes;
}

struct Directory {
  std::uint64_t count, offset, size;
};

/// By the records at the end of the file (4.3.14 to 4.3.16).
Directory find_directory(std::istream& file, std::uint64_t size) {
  constexpr std::uint64_t length = 22, longest_comment = 0xFFFF, locator_length = 20;
  const std::uint64_t tail_size = std::min(size, length + longest_comment + locator_length);
  const std::string tail = bytes_of(file, size - tail_size, tail_size, size);
  const std::size_t end = tail.rfind("PK\x05\x06");
  TORCH_CHECK_VALUE(end != std::string::npos && tail.size() - end >= length, no_directory);
  const Directory directory{
      number_at<std::uint16_t>(tail, end + 10), number_at<std::uint32_t>(tail, end + 16),
      number_at<std::uint32_t>(tail, end + 12)};
  const bool is_zip64 = directory.count == 0xFFFF || directory.offset == 0xFFFFFFFF || directory.size == 0xFFFFFFFF;
  if (!is_zip64) return directory;
  TORCH_CHECK_VALUE(end >= locator_length && tail.substr(end - locator_length, 4) == "PK\x06\x07", bad_directory);
  const std::string zip64 = bytes_of(file, number_at<std::uint64_t>(tail, end - locator_length + 8), 56, size);
  TORCH_CHECK_VALUE(zip64.starts_with("PK\x06\x06"), bad_directory);
  return {
      number_at<std::uint64_t>(zip64, 32), number_at<std::uint64_t>(zip64, 48), number_at<std::uint64_t>(zip64, 40)};
}

}  // namespace

std::map<std::string, std::uint32_t> checksums_in_zip(std::istream& file) {
  file.clear();
  file.seekg(0, std::ios::end);
  TORCH_CHECK_VALUE(file.good(), "it cannot be read");
  const auto size = static_cast<std::uint64_t>(file.tellg());
  const Directory directory = find_directory(file, size);
  const std::string entries = bytes_of(file, directory.offset, directory.size, size);
  std::map<std::string, std::uint32_t> checksums;
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < directory.count; ++i) {
    // 4.3.12: the signature, fields of fixed length, the name, the extra field and the comment.
    TORCH_CHECK_VALUE(number_at<std::uint32_t>(entries, at) == 0x02014B50, bad_directory);
    const std::size_t length = number_at<std::uint16_t>(entries, at + 28);
    const std::size_t next =
        at + 46 + length + number_at<std::uint16_t>(entries, at + 30) + number_at<std::uint16_t>(entries, at + 32);
    TORCH_CHECK_VALUE(next <= entries.size(), bad_directory);
    const std::size_t begin = at;
    const std::string name = entries.substr(begin + 46, length);
    at = next;
    if (name.ends_with('/')) continue;  // a folder, as some programs list them
    // Of what is marked as one, torch's reader leaves the memory as it was.
    TORCH_CHECK_VALUE((number_at<std::uint32_t>(entries, begin + 38) & 0x10U) == 0, bad_directory);
    TORCH_CHECK_VALUE(
        checksums.emplace(name, number_at<std::uint32_t>(entries, begin + 16)).second, "it has the record '", name,
        "' twice");
  }
  TORCH_CHECK_VALUE(at == entries.size(), bad_directory);
  return checksums;
}

}  // namespace it3::detail
