#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <type_traits>

#include "support/temp_folder.hpp"

// What all fuzz targets share. A target takes any bytes; what a reader may do with them is to give what is there, or
// one of the library's own exceptions. Everything else leaves the target: another exception, a broken law
// (std::logic_error), a sanitizer's finding.

namespace fuzz {

using twoheads::Index;

/// Numbers and texts drawn from the front of the bytes; at their end all numbers are 0 and all texts empty.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  template <class Number = std::uint8_t>
  [[nodiscard]] Number number() {
    static_assert(std::is_trivially_copyable_v<Number>);
    Number value{};
    const std::size_t count = std::min(sizeof(Number), bytes_.size());
    if (count > 0) std::memcpy(&value, bytes_.data(), count);
    bytes_ = bytes_.subspan(count);
    return value;
  }
  [[nodiscard]] bool flag() { return (number() & 1U) != 0; }

  /// A number from least to most; small ranges take one byte, larger ones two or eight.
  [[nodiscard]] Index index(Index least, Index most) {
    const auto range = static_cast<std::uint64_t>(most) - static_cast<std::uint64_t>(least);
    std::uint64_t drawn = range < 256 ? number<std::uint8_t>() : range < 65536 ? number<std::uint16_t>() : 0;
    if (range >= 65536) drawn = number<std::uint64_t>();
    return range == ~std::uint64_t{0} ? static_cast<Index>(drawn)
                                      : static_cast<Index>(static_cast<std::uint64_t>(least) + drawn % (range + 1));
  }

  [[nodiscard]] std::string text(std::size_t length) {
    length = std::min(length, bytes_.size());
    std::string taken(reinterpret_cast<const char*>(bytes_.data()), length);
    bytes_ = bytes_.subspan(length);
    return taken;
  }
  /// All bytes up to the next 0xFF, which UTF-8 does not have, or to the end.
  [[nodiscard]] std::string part() {
    const auto end = std::find(bytes_.begin(), bytes_.end(), std::uint8_t{0xFF});
    std::string taken = text(static_cast<std::size_t>(end - bytes_.begin()));
    if (!bytes_.empty()) bytes_ = bytes_.subspan(1);
    return taken;
  }
  [[nodiscard]] std::string rest() { return text(bytes_.size()); }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }

 private:
  std::span<const std::uint8_t> bytes_;
};

/// Says that a law of the library does not hold.
inline void require(bool holds, std::string_view law) {
  if (!holds) throw std::logic_error(std::string(law));
}

/// Runs what may be refused; true where it was not.
template <class Run>
bool accepted(const Run& run) {
  try {
    run();
    return true;
  } catch (const twoheads::Error&) {
    return false;
  }
}

template <class Number>
void append(std::string& bytes, Number value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// Writes a file where there may be one of that name. Some file systems bring one that is overwritten to the disk at
/// once, and not a new one.
inline std::filesystem::path write_new(const TempFolder& folder, const std::string& name, const std::string& bytes) {
  std::filesystem::remove(folder / name);
  return folder.write(name, bytes);
}

/// The hash that files of ours end with.
[[nodiscard]] inline std::uint64_t hash_of(std::string_view bytes, std::uint64_t seed = 0) {
  return twoheads::detail::hash_of(std::as_bytes(std::span(bytes.data(), bytes.size())), seed);
}

}  // namespace fuzz
