#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace it3::detail {

/// The checksum of zip files (CRC-32, ISO 3309), of some bytes that follow those of `before`.
///
/// Eight bytes at a time: `tables[k]` has the checksum of each byte with k zeros behind it.
inline std::uint32_t crc32(const void* data, std::size_t size, std::uint32_t before = 0) {
  using Tables = std::array<std::array<std::uint32_t, 256>, 8>;
  static constexpr Tables tables = [] {
    Tables made = {};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      std::uint32_t crc = byte;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
      made[0][byte] = crc;
    }
    for (std::size_t k = 1; k < 8; ++k) {
      for (std::size_t byte = 0; byte < 256; ++byte) {
        made[k][byte] = (made[k - 1][byte] >> 8U) ^ made[0][made[k - 1][byte] & 0xFFU];
      }
    }
    return made;
  }();
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  std::uint32_t crc = ~before;
  for (; size >= 8; size -= 8, bytes += 8) {
    std::uint32_t next = 0;
    for (std::uint32_t k = 0; k < 4; ++k) next ^= tables[7 - k][bytes[k] ^ ((crc >> (8 * k)) & 0xFFU)];
    for (std::uint32_t k = 4; k < 8; ++k) next ^= tables[7 - k][bytes[k]];
    crc = next;
  }
  for (; size > 0; --size, ++bytes) crc = (crc >> 8U) ^ tables[0][(crc ^ *bytes) & 0xFFU];
  return ~crc;
}

}  // namespace it3::detail
