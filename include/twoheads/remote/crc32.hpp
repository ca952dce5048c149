#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace twoheads {
namespace detail {

/// Row k gives what a byte does to the checksum when k more bytes follow it.
[[nodiscard]] constexpr std::array<std::array<std::uint32_t, 256>, 8> crc32_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320U : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t row = 1; row < 8; ++row)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[row - 1][byte];
      tables[row][byte] = (before >> 8) ^ tables[0][before & 255];
    }
  return tables;
}

}  // namespace detail

/// The checksum that zlib calls crc32: polynomial 0x04c11db7 with bits reversed, begun and ended with all ones.
///
///   Math     eight bytes a step, each through a table of its own: a table of bytes would take longer than the pipe
[[nodiscard]] inline std::uint32_t crc32(std::span<const std::byte> bytes) {
  static constexpr std::array<std::array<std::uint32_t, 256>, 8> tables = detail::crc32_tables();
  std::uint32_t crc = 0xffffffffU;
  std::size_t i = 0;
  const auto at = [&](std::size_t place) { return std::to_integer<std::uint32_t>(bytes[place]); };
  for (; i + 8 <= bytes.size(); i += 8) {
    crc ^= at(i) | at(i + 1) << 8 | at(i + 2) << 16 | at(i + 3) << 24;
    crc = tables[7][crc & 255] ^ tables[6][(crc >> 8) & 255] ^ tables[5][(crc >> 16) & 255] ^ tables[4][crc >> 24] ^
          tables[3][at(i + 4)] ^ tables[2][at(i + 5)] ^ tables[1][at(i + 6)] ^ tables[0][at(i + 7)];
  }
  for (; i < bytes.size(); ++i) crc = (crc >> 8) ^ tables[0][(crc ^ at(i)) & 255];
  return ~crc;
}

}  // namespace twoheads
